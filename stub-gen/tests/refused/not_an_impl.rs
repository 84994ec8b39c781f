#![allow(unused)]
use millet_macros::grain;

#[grain(name = "realm.Rank")]
struct Rank;

fn main() {}
