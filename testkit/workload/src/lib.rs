//! The grains and clients that simulation and torture run, and the history they write.
