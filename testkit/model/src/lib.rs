//! The ownership protocol as a stateright model over the pure machines the product runs.
