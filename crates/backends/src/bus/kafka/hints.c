/* Brokers may add to an error the leader that a partition has now (KIP-951). librdkafka up to 2.12.1 at least reserves room for
 * each such hint but fills in only those that name a leader, and then reads what was never written: it crashes while a cluster
 * that was away comes back (librdkafka issue 5280). The same errors make it ask for the leaders besides, so the hints only save
 * a round trip. The linker puts this in place of their reader: see build.rs and docs/adr/0010-no-hints-of-leaders.md.
 */

/* RD_KAFKA_OP_RES_HANDLED of rdkafka_op.h: the caller frees the hints. */
enum { HANDLED = 1 };

int __wrap_rd_kafka_metadata_update_op(void *client, void *hints) {
  (void)client;
  (void)hints;
  return HANDLED;
}
