#!/usr/bin/env python3
"""Do Watchfloor's eight metrics mean what psutil's mean, on this machine, under load?

Starts `watchfloor up` on free ports with a data directory of its own, makes load for some seconds (one busy core,
synced file writes and uncached reads, loopback traffic), reads psutil every 50 ms meanwhile, and then takes the agent's
records through the command line. Each counter of a tick must lie between psutil's readings just before and just after it,
cpu within 5 points over the same 10 s, and each rate must be its counter's growth. Needs psutil 7; uses 127.0.0.1 only.

    psutil_agreement.py target/release/watchfloor
"""

import argparse
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

AGENT = "psutil-agreement"
INTERVAL_S = 1.0
LOAD_S = 16.0
POLL_S = 0.05
START_WITHIN_S = 30.0
# A tick's files are read within this time after its timestamp.
COLLECT_WITHIN_S = 0.1
CPU_WINDOW_S = 10.0
CPU_POINTS = 5.0
# Memory goes up and down between two polls; counters do not and get no tolerance.
MEMORY_TOLERANCE_MB = 16.0
# Rates are per measured interval, timestamps are whole milliseconds and each file is read at its own moment.
RATE_TOLERANCE = 0.03
RATE_TOLERANCE_BYTES = 128 * 1024
MOVED_BYTES = 1_000_000
MB = 1024 * 1024

# name of ours, series, direction, psutil's call and field, rate among the eight
COUNTERS = [
    ("disk read", "system.disk.io", "read", "disk", "read_bytes", "disk_read_mb"),
    ("disk write", "system.disk.io", "write", "disk", "write_bytes", "disk_write_mb"),
    ("net in", "system.network.io", "receive", "net", "bytes_recv", "net_in_mb"),
    ("net out", "system.network.io", "transmit", "net", "bytes_sent", "net_out_mb"),
]


class Poll(NamedTuple):
    """One reading of psutil, made between two wall-clock times."""

    begun: float
    ended: float
    cpu: object
    memory: object
    disk: object
    net: object


class Outcome(NamedTuple):
    check: str
    state: str
    detail: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("watchfloor", type=Path, help="the binary to check")
    binary = parser.parse_args().watchfloor.resolve()
    if not binary.is_file():
        parser.error(f"{binary} is not there: build it with cargo build --release")
    with tempfile.TemporaryDirectory(prefix="watchfloor-psutil-") as folder:
        with Watchfloor(binary, Path(folder)) as watchfloor:
            watchfloor.ask("config", "set", AGENT, json.dumps({"interval": INTERVAL_S, "plugins": []}))
            polls = poll_under_load(Path(folder))
            printed = watchfloor.ask("get-metrics", AGENT, "--since", "5m", "-o", "jsonl")
    ticks = ticks_within(polls, [json.loads(line) for line in printed.splitlines() if line])
    outcomes = compare(polls, ticks)
    return report(outcomes, len(polls), len(ticks))


# ---- the system under test ----


class Watchfloor:
    """`watchfloor up` with everything it needs below `folder`; gone when the block ends."""

    def __init__(self, binary: Path, folder: Path):
        self.binary = binary
        self.data = folder / "data"
        self.log = folder / "up.log"
        grpc, self.http = free_ports(2)
        ours = ("GRPC_", "KAFKA_", "ETCD_", "WATCHFLOOR_")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        self.command = [
            *(str(binary), "up", "--data-dir", str(self.data), "--agent-id", AGENT),
            *("--grpc-listen", f"127.0.0.1:{grpc}", "--http-listen", f"127.0.0.1:{self.http}"),
        ]

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        deadline = time.monotonic() + START_WITHIN_S
        while not self.is_online():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                sys.exit(f"the agent did not come online; {' '.join(self.command)} said:\n{self.log.read_text()}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def is_online(self) -> bool:
        answer = self.run("agents", "-o", "json")
        if answer.returncode != 0:
            return False
        agents = json.loads(answer.stdout)
        return any(agent["agent_id"] == AGENT and agent["status"] == "ONLINE" for agent in agents)

    def ask(self, *arguments: str) -> str:
        answer = self.run(*arguments)
        if answer.returncode != 0:
            sys.exit(f"watchfloor {' '.join(arguments)} ended with {answer.returncode}:\n{answer.stderr}")
        return answer.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        api = ["--api", f"http://127.0.0.1:{self.http}"]
        return subprocess.run(
            [str(self.binary), *arguments, *api], capture_output=True, text=True, env=self.environment, timeout=30
        )


def free_ports(count: int) -> list[int]:
    """Ports nobody has now. Held together until all are known, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


# ---- load and the independent reader ----


def poll_under_load(folder: Path) -> list[Poll]:
    polls = []
    ends = time.monotonic() + LOAD_S
    work = [(spin, (ends,)), (write_and_read, (ends, folder / "load")), (talk_to_itself, (ends,))]
    processes = [multiprocessing.Process(target=target, args=arguments, daemon=True) for target, arguments in work]
    for process in processes:
        process.start()
    while time.monotonic() < ends:
        begun = time.time()
        reading = (psutil.cpu_times(), psutil.virtual_memory(), psutil.disk_io_counters(), psutil.net_io_counters())
        polls.append(Poll(begun, time.time(), *reading))
        time.sleep(POLL_S)
    for process in processes:
        process.join(timeout=10)
    return polls


def spin(ends: float):
    while time.monotonic() < ends:
        pass


def write_and_read(ends: float, path: Path):
    """About 10 MB/s each way, past the page cache, over one 4 MiB file."""
    block = os.urandom(MB)
    with path.open("w+b", buffering=0) as file:
        while time.monotonic() < ends:
            file.seek(0)
            for _ in range(4):
                file.write(block)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            while file.read(MB):
                pass
            time.sleep(0.4)


def talk_to_itself(ends: float):
    """About 5 MB/s over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as speaker:
            hearer, _ = listener.accept()
            with hearer:
                block = bytes(256 * 1024)
                while time.monotonic() < ends:
                    speaker.sendall(block[: 64 * 1024])
                    left = 64 * 1024
                    while left:
                        left -= len(hearer.recv(left))
                    time.sleep(0.0125)


# ---- the comparison ----


def ticks_within(polls: list[Poll], records: list[dict]) -> list[dict]:
    """Records of ticks that have a poll on both sides, by time; each gets the key `at`."""
    ticks = []
    for record in records:
        record["at"] = datetime.fromisoformat(record["timestamp"].replace("Z", "+00:00")).timestamp()
        if record.get("series") and polls[0].ended <= record["at"] <= polls[-1].begun - COLLECT_WITHIN_S:
            ticks.append(record)
    return sorted(ticks, key=lambda tick: tick["at"])


def compare(polls: list[Poll], ticks: list[dict]) -> list[Outcome]:
    if len(ticks) < CPU_WINDOW_S / INTERVAL_S + 1:
        return [Outcome("records", "FAILED", f"{len(ticks)} ticks fell into {LOAD_S:.0f} s of load")]
    eight = ["cpu_percent", "memory_percent", "memory_used_mb", "memory_total_mb", *(each[-1] for each in COUNTERS)]
    missing = sorted({name for tick in ticks for name in eight if name not in tick["metrics"]})
    if missing:
        return [Outcome("records", "FAILED", f"ticks lack {', '.join(missing)}")]
    outcomes = [compare_cpu(polls, ticks), *compare_memory(polls, ticks)]
    for counter in COUNTERS:
        outcomes += compare_counter(polls, ticks, *counter)
    return outcomes


def compare_cpu(polls: list[Poll], ticks: list[dict]) -> Outcome:
    first = ticks[0]
    last = min(ticks, key=lambda tick: abs(tick["at"] - first["at"] - CPU_WINDOW_S))
    inside = [(earlier, later) for earlier, later in zip(ticks, ticks[1:]) if later["at"] <= last["at"]]
    weighted = sum(later["metrics"]["cpu_percent"] * (later["at"] - earlier["at"]) for earlier, later in inside)
    ours = weighted / (last["at"] - first["at"])
    begin, end = (min(polls, key=lambda poll: abs(poll.begun - tick["at"])).cpu for tick in (first, last))
    theirs = 100 * (busy(end) - busy(begin)) / (total(end) - total(begin))
    detail = f"ours {ours:.2f} %, psutil {theirs:.2f} % over {last['at'] - first['at']:.1f} s"
    return outcome("cpu_percent", abs(ours - theirs) <= CPU_POINTS, detail)


def total(cpu) -> float:
    """As psutil's cpu_percent: guest time is inside user time."""
    return sum(cpu) - cpu.guest - cpu.guest_nice


def busy(cpu) -> float:
    return total(cpu) - cpu.idle - cpu.iowait


def compare_memory(polls: list[Poll], ticks: list[dict]) -> list[Outcome]:
    size = polls[0].memory.total / MB
    checks = [
        ("memory_total_mb", lambda memory: memory.total / MB, 0.001),
        ("memory_used_mb", lambda memory: memory.used / MB, MEMORY_TOLERANCE_MB),
        # psutil rounds to a tenth.
        ("memory_percent", lambda memory: memory.percent, 0.05 + 100 * MEMORY_TOLERANCE_MB / size),
    ]
    outcomes = []
    for name, read, tolerance in checks:
        worst = 0.0
        for tick in ticks:
            near = [read(poll.memory) for poll in polls if is_near(poll, tick)]
            worst = max(worst, min(near) - tick["metrics"][name], tick["metrics"][name] - max(near))
        detail = f"at most {worst:.3f} outside psutil's readings, {tolerance:.3f} allowed, {len(ticks)} ticks"
        outcomes.append(outcome(name, worst <= tolerance, detail))
    return outcomes


def is_near(poll: Poll, tick: dict) -> bool:
    """The poll before the tick, those during it, and the one after."""
    return tick["at"] - 2 * POLL_S <= poll.begun <= tick["at"] + COLLECT_WITHIN_S + 2 * POLL_S


def compare_counter(polls, ticks, name, series, direction, call, field, rate) -> list[Outcome]:
    read = lambda poll: getattr(getattr(poll, call), field)
    moved = read(polls[-1]) - read(polls[0])
    ours = [(tick, counter_total(tick, series, direction)) for tick in ticks]
    if any(value is None for _, value in ours):
        return [Outcome(f"{name} counter", "FAILED", f"a tick has no {series} with direction {direction}")]
    outside = 0
    for tick, value in ours:
        before = max((poll for poll in polls if poll.ended <= tick["at"]), key=lambda poll: poll.ended)
        after = min((poll for poll in polls if poll.begun >= tick["at"] + COLLECT_WITHIN_S), key=lambda poll: poll.begun)
        outside += not read(before) <= value <= read(after)
    worst = 0.0
    for (earlier, start), (later, end) in zip(ours, ours[1:]):
        seconds = later["at"] - earlier["at"]
        error = abs(later["metrics"][rate] * MB * seconds - (end - start))
        worst = max(worst, error - RATE_TOLERANCE * (end - start))
    counter_detail = f"{outside} of {len(ours)} ticks outside psutil's readings, {moved / MB:.1f} MB moved"
    rate_detail = f"{worst / 1024:.1f} KiB a tick past 3 % off its counter, {RATE_TOLERANCE_BYTES // 1024} allowed"
    counter_outcome = outcome(f"{name} counter", outside == 0, counter_detail)
    if outside == 0 and moved < MOVED_BYTES:
        counter_outcome = Outcome(f"{name} counter", "NOT SHOWN", f"psutil itself saw {moved} bytes move here")
    return [counter_outcome, outcome(rate, worst <= RATE_TOLERANCE_BYTES, rate_detail)]


def counter_total(tick: dict, name: str, direction: str):
    """The total over all devices: the series without a device if there is one, else the sum; None if there is neither."""
    named = [(sample["value"], sample.get("attributes", {})) for sample in tick["series"] if sample["name"] == name]
    directed = [(value, attributes) for value, attributes in named if direction in attributes.values()]
    totals = [(value, attributes) for value, attributes in directed if len(attributes) == 1]
    chosen = totals or directed
    return sum(value for value, _ in chosen) if chosen else None


# ---- the report ----


def outcome(check: str, passed: bool, detail: str) -> Outcome:
    return Outcome(check, "PASSED" if passed else "FAILED", detail)


def report(outcomes: list[Outcome], polls: int, ticks: int) -> int:
    print(f"psutil {psutil.__version__}: {polls} readings, {ticks} ticks")
    for each in outcomes:
        print(f"  {each.check:<20} {each.state:<10} {each.detail}")
    states = [each.state for each in outcomes]
    print(f"{states.count('PASSED')} passed, {states.count('FAILED')} failed, {states.count('NOT SHOWN')} skipped")
    return 1 if "FAILED" in states else 0


if __name__ == "__main__":
    sys.exit(main())
