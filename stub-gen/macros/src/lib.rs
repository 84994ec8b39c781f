//! The `#[grain]` attribute: a thin door to `millet_stub_gen::grain`.

use proc_macro::TokenStream;

/// Makes the methods of an `impl` block callable from anywhere in the cluster.
///
/// ```text
/// pub struct Rank { best: Persistent<BTreeMap<u64, i64>> }
///
/// impl Grain for Rank {
///     type Service = RankService;                        // generated
///     fn create(c: &mut Create<Self>) -> Self { Rank { best: c.state("best") } }
/// }
///
/// #[grain(name = "realm.Rank", key = text)]
/// impl Rank {
///     async fn report(&mut self, _ctx: &Ctx<Self>, who: u64, score: i64) -> Result<(), TooLow> { … }
///     async fn top(&self, _ctx: &Ctx<Self>, n: u32) -> Vec<(u64, i64)> { … }
/// }
/// ```
///
/// Beside the block, which stays as it is, these are generated for a struct `Rank`:
///
/// - `RankService`, the marker for `type Service`;
/// - `RankRef`, the typed reference: `ctx.get::<RankService>("gold").report(7, 12).await`;
/// - `rank`, a module with a type per method (`rank::Report`) and its arguments (`rank::ReportArgs`);
/// - `RankMsg`, the message enum of its mailbox.
///
/// Options: `name` (required: the type's name in the cluster, which stays when the Rust type is renamed),
/// `key = int | text` (default text), `vis = pub(crate)` (default `pub`; needed if argument types are not
/// public), `crate = some::path` (where `millet` is re-exported).
///
/// `&mut self` methods have the grain to themselves; `&self` methods overlap one another and may be
/// repeated; `#[idempotent]` on a `&mut self` method says that it may be repeated too. Arguments travel
/// as named fields: fields may be added in a rolling upgrade, where a missing one takes its type's
/// default.
#[proc_macro_attribute]
pub fn grain(attribute: TokenStream, item: TokenStream) -> TokenStream {
    millet_stub_gen::grain::expand(attribute.into(), item.into()).into()
}
