#![allow(unused)]
use millet_macros::grain;

struct Rank;
struct Ctx<G>(std::marker::PhantomData<G>);

#[grain(name = "realm.Rank")]
impl Rank {
    async fn report(ctx: &Ctx<Self>, who: u64) {}
}

fn main() {}
