//! The repository over real and faulty stores.

mod damage;
mod evidence;
mod round_trip;
mod small;
mod world;
