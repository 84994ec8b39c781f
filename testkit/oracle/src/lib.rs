//! The history format of the proof and the checkers that read it.
