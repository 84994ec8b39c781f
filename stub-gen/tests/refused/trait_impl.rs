#![allow(unused)]
use millet_macros::grain;

struct Rank;

#[grain(name = "realm.Rank")]
impl Clone for Rank {
    fn clone(&self) -> Self {
        Rank
    }
}

fn main() {}
