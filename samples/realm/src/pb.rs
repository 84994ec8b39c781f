//! What is generated from `proto/realm.proto`: messages, grain traits, typed references.

millet::include_grains!("realm");
