//! The repository over real and faulty stores.

mod round_trip;
mod world;
