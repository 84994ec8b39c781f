//! The in-memory state store keeps the rules of every state store.

use millet::adapters::memory::MemoryStore;

#[tokio::test]
async fn the_memory_store_passes_the_conformance_suite() {
    millet_testkit::store_suite::run(async || MemoryStore::new()).await;
}
