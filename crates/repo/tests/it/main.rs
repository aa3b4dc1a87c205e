//! The repository over real and faulty stores.

mod concurrency;
mod damage;
mod decoder;
mod evidence;
mod faults;
mod lab;
mod prune;
mod repair;
mod round_trip;
mod small;
mod testdata;
mod world;
