//! Every bound of the system, with its reason. Relations between them are checked when this compiles.

use std::time::Duration;

/// Ids become registry keys, file names and table columns.
pub const ID_BYTES_MAX: usize = 128;

// ---- what one agent may send ----

/// Labels of processes, mounts and interfaces come from outside; past this many series the rest is counted, not sent.
pub const SERIES_PER_AGENT_MAX: usize = 2_000;
/// One attribute value; longer ones are cut at a character boundary.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;
/// Labels an agent may carry, and the bytes of one key or value.
pub const LABELS_MAX: usize = 64;
/// Metadata pairs on one record, StreamMetrics clients included.
pub const METADATA_PAIRS_MAX: usize = 128;
/// One metadata value. Alerts and quantiles are far smaller.
pub const METADATA_BYTES_MAX: usize = 4_096;

// ---- collection ----

/// One file of /proc or /sys. The largest honest one, /proc/stat with thousands of interrupts, has about 100 KB.
pub const PROC_FILE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// The clocks that do and do not count suspension drift apart by this much only when the machine slept.
pub const SUSPENSION_MIN: Duration = Duration::from_secs(2);
/// Mounts asked for their space. Each costs a thread, because a dead one never answers.
pub const MOUNTS_MAX: usize = 64;
/// How long one collection waits for mounts. A local file system answers in microseconds.
pub const MOUNT_PATIENCE: Duration = Duration::from_millis(100);
/// A mount silent for this long is reported as stuck.
pub const MOUNT_STUCK_AFTER: Duration = Duration::from_secs(2);
/// Interfaces whose index is read to notice that a name now means another one; each costs one file.
pub const INTERFACES_IDENTIFIED_MAX: usize = 64;
/// Control groups between the agent's own and the root.
pub const CGROUP_DEPTH_MAX: usize = 32;
/// Processes looked at in one walk; the rest is counted.
pub const PROCESSES_MAX: usize = 50_000;
/// Processes named one by one: this many by processor time and as many by memory.
pub const PROCESSES_TOP: usize = 10;

const _: () = assert!(MOUNT_PATIENCE.as_millis() < MOUNT_STUCK_AFTER.as_millis());
const _: () = assert!(MOUNT_PATIENCE.as_millis() <= INTERVAL_MIN.as_millis());

// ---- the stream ----

/// One message from an agent. Bounds what a hostile length header can reserve.
pub const AGENT_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// One message to an agent: a config revision is the largest.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What an agent packs into one batch, leaving room for framing and one more row.
pub const BATCH_BYTES_MAX: usize = 192 * 1024;
/// Ticks in one batch.
pub const BATCH_TICKS_MAX: usize = 256;
/// Batches an agent may have unacknowledged: enough to cover one commit and one round trip at full speed.
pub const BATCH_CREDITS: u32 = 16;
/// Time for the first message of a stream.
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);

const _: () = assert!(BATCH_BYTES_MAX < AGENT_MESSAGE_BYTES_MAX);

// ---- config ----

/// One config value in the registry (etcd's own request limit is 1.5 MiB; a config has no business being near it).
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
pub const PLUGINS_PER_AGENT_MAX: usize = 16;
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
pub const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
/// Aggregation: ticks in one window.
pub const WINDOW_TICKS_MAX: usize = 10_000;
/// Aggregation: the longest window. A window lives in memory, so a crash loses it.
pub const WINDOW_MAX: Duration = Duration::from_secs(86_400);
/// Nesting of a config value. Built-in settings need four levels; the rest is for plugins of others.
pub const CONFIG_DEPTH_MAX: usize = 16;
/// Faults listed for one config; the next ones show once these are mended.
pub const CONFIG_FAULTS_MAX: usize = 20;
/// Thresholds or conditions of one plugin: each is looked at for every series of every tick.
pub const RULES_PER_PLUGIN_MAX: usize = 64;
/// Stretches of ticks whose fate waits for an open window; past it windows close early.
pub const PIPELINE_STRETCHES_MAX: usize = 4_096;
/// Observed config versions kept per agent or group.
pub const CONFIG_HISTORY_MAX: usize = 50;

const _: () = assert!(CONFIG_BYTES_MAX * 4 < SERVER_MESSAGE_BYTES_MAX);

// ---- presence ----

pub const PRESENCE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
pub const PRESENCE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
pub const PRESENCE_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(1);
/// Agents of a server that is gone are LATE this long before they are OFFLINE.
pub const SERVER_LOSS_GRACE: Duration = Duration::from_secs(60);
/// Agents whose server is gone are on their way to another for a moment; only then is it told.
pub const SERVER_LOSS_NOTICE: Duration = Duration::from_secs(3);
/// The first ban of a superseded session; it doubles up to the maximum.
pub const DUPLICATE_RETRY_MIN: Duration = Duration::from_secs(60);
pub const DUPLICATE_RETRY_MAX: Duration = Duration::from_secs(3_600);
/// A server's own lease in the registry.
pub const SERVER_LEASE: Duration = Duration::from_secs(10);

// ---- one server ----

/// Agents one server holds or held and still judges; past it hellos are answered OVERLOADED.
pub const AGENTS_PER_SERVER_MAX: usize = 20_000;
/// Messages on their way down to one agent; a peer that leaves more unread is cut off.
pub const SESSION_OUTBOX_MAX: usize = 256;
/// Reports of one session that are not durable yet: every waiting command in each of its states.
pub const REPORTS_IN_FLIGHT_MAX: usize = 256;
/// Sessions that claimed one agent id and were sent away, as remembered; the longest ago are forgotten first.
pub const RIVALS_MAX: usize = 8;
/// Silence allowed to a StreamMetrics client before its interval has been observed.
pub const STREAM_METRICS_FIRST_INTERVAL: Duration = Duration::from_secs(60);
/// Agents' data on its way to the bus, over all streams of a server. A bus that is away for long fills it; past half of it
/// streams begin without credits, and agents keep what they measure.
pub const SERVER_WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Time for what is in flight when a server stops.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(5);

// ---- commands ----

pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
pub const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(86_400);
/// After the deadline, the leading monitor waits this long for an outcome under way, then writes the final state.
pub const COMMAND_GRACE: Duration = Duration::from_secs(2);
/// Commands waiting at a server for one agent; past it the oldest would starve, so new ones are REJECTED.
pub const COMMANDS_WAITING_PER_AGENT_MAX: usize = 64;
/// Commands one server knows and that have not passed their deadline, over all agents.
pub const COMMANDS_PER_SERVER_MAX: usize = 100_000;
/// Commands whose reports a monitor remembers while they are not open, so that none is ended twice.
pub const COMMANDS_REMEMBERED_MAX: usize = 100_000;
/// Commands an agent remembers, so that one sent twice acts once.
pub const COMMAND_JOURNAL_MAX: usize = 1_000;
/// Parameters or a result, as JSON text.
pub const COMMAND_JSON_BYTES_MAX: usize = 64 * 1024;

// ---- memory ----

/// Unacknowledged ticks an agent keeps in memory while no server takes them; the oldest go first, counted.
pub const AGENT_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A reader of the live tail that falls this far behind loses the oldest, counted.
pub const LIVE_TAIL_RECORDS_MAX: usize = 1_000;
/// One value on the bus; Kafka's own default limit is 1 048 588 bytes.
pub const BUS_VALUE_BYTES_MAX: usize = 1_000_000;
/// One request body on the HTTP API.
pub const HTTP_BODY_BYTES_MAX: usize = 256 * 1024;

const _: () = assert!(CONFIG_BYTES_MAX < HTTP_BODY_BYTES_MAX);

// ---- history and the HTTP API ----

/// How far back samples are kept in memory, by the time the bus got them.
pub const HISTORY_WINDOW_DEFAULT: Duration = Duration::from_secs(3_600);
/// Memory for them: ten agents at one tick per second with 500 series need half of it for an hour.
pub const HISTORY_BYTES_DEFAULT: usize = 256 * 1024 * 1024;
/// Runs of one agent remembered by name after their records went, so that one sent again is not taken twice.
pub const EMPTY_RUNS_PER_AGENT_MAX: usize = 64;
/// Bytes of blocks in the archive; past it the oldest go. A thousand agents with one tick in 5 s of 300 series fill it in
/// an hour, at 4.8 bytes a sample.
pub const ARCHIVE_BYTES_DEFAULT: u64 = 1024 * 1024 * 1024;
/// Between two commits of the archive. What is not committed is on the bus and read again after a crash, so the interval
/// is long: ticks of one agent that lie in one block compress together.
pub const ARCHIVE_COMMIT_EVERY: Duration = Duration::from_secs(30);
/// Memory of records that make a commit due before its time.
pub const ARCHIVE_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Memory of records that wait while the disk takes none; past it they are let go and read from the bus again later.
pub const ARCHIVE_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One block without compression; a larger one is written as several. Bounds what a damaged file can reserve.
pub const ARCHIVE_BLOCK_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Records in one answer when the question names no limit, and the most it may name.
pub const ANSWER_RECORDS_DEFAULT: usize = 10_000;
pub const ANSWER_RECORDS_MAX: usize = 100_000;
/// Values that the command line keeps of what it reads from Kafka for one answer; the oldest go first, counted.
pub const KAFKA_ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Agents never tick faster than [`INTERVAL_MIN`], so a shorter step would only repeat records.
pub const STEP_MIN: Duration = INTERVAL_MIN;
/// Commands are remembered for as long as one may last.
pub const COMMAND_BOOK_WINDOW: Duration = COMMAND_TIMEOUT_MAX;
/// Commands remembered, and the memory for them and their responses.
pub const COMMAND_BOOK_MAX: usize = 10_000;
pub const COMMAND_BOOK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Commands in one list when the question names no limit.
pub const COMMANDS_LISTED_DEFAULT: usize = 100;
/// Commands published in one call: with full parameters 16 MB.
pub const COMMANDS_PER_PUBLISH_MAX: usize = 256;
/// Live streams open at once: each holds a connection and a place in the tail.
pub const LIVE_STREAMS_MAX: usize = 256;
/// Who asked for a command or a config, as the asker says.
pub const ASKER_BYTES_MAX: usize = 256;

const _: () = assert!(ARCHIVE_BATCH_BYTES < ARCHIVE_WAITING_BYTES_MAX);
const _: () = assert!(16 * BUS_VALUE_BYTES_MAX < ARCHIVE_BLOCK_BYTES_MAX);
const _: () = assert!(ANSWER_RECORDS_DEFAULT <= ANSWER_RECORDS_MAX);
const _: () = assert!(COMMANDS_LISTED_DEFAULT <= COMMAND_BOOK_MAX);
