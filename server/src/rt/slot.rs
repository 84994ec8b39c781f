//! How a message carries its arguments: inline when small, boxed above [`SLOT_BYTES`]. Every slot of a
//! mailbox is as large as the largest message of its service.

/// Arguments larger than this are boxed, in bytes.
pub const SLOT_BYTES: usize = 128;

/// Chooses by size: `Slot<{ size_of::<T>() > SLOT_BYTES }> as Carry<T>`.
pub struct Slot<const BOXED: bool>;

/// Packs arguments into a message and takes them out again.
pub trait Carry<T> {
    /// `T` or `Box<T>`.
    type As: Send;
    /// Into the message.
    fn pack(args: T) -> Self::As;
    /// Out of the message.
    fn unpack(args: Self::As) -> T;
}

impl<T: Send> Carry<T> for Slot<false> {
    type As = T;
    fn pack(args: T) -> T {
        args
    }
    fn unpack(args: T) -> T {
        args
    }
}

impl<T: Send> Carry<T> for Slot<true> {
    type As = Box<T>;
    fn pack(args: T) -> Box<T> {
        Box::new(args)
    }
    fn unpack(args: Box<T>) -> T {
        *args
    }
}
