#![allow(unused)]
use millet_macros::grain;

struct Rank;
struct Ctx<G>(std::marker::PhantomData<G>);

#[grain(name = "a grain")]
impl Rank {
    async fn report(&mut self, ctx: &Ctx<Self>) {}
}

fn main() {}
