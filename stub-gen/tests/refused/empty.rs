#![allow(unused)]
use millet_macros::grain;

struct Rank;
struct Ctx<G>(std::marker::PhantomData<G>);

#[grain(name = "realm.Rank")]
impl Rank {
    
}

fn main() {}
