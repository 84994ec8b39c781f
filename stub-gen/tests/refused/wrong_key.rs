#![allow(unused)]
use millet_macros::grain;

struct Rank;
struct Ctx<G>(std::marker::PhantomData<G>);

#[grain(name = "realm.Rank", key = uuid)]
impl Rank {
    async fn report(&mut self, ctx: &Ctx<Self>) {}
}

fn main() {}
