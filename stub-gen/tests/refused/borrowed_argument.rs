#![allow(unused)]
use millet_macros::grain;

struct Rank;
struct Ctx<G>(std::marker::PhantomData<G>);

#[grain(name = "realm.Rank")]
impl Rank {
    async fn report(&mut self, ctx: &Ctx<Self>, who: &str) {}
}

fn main() {}
