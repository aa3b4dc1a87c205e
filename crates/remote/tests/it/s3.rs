//! S3, on SeaweedFS.

use crate::bucket_at;
use hikae_remote::Retry;
use hikae_store::Store;
use hikae_testkit::{SeaweedFs, store_contract, system_cx};
use std::sync::atomic::{AtomicU32, Ordering};

/// Keeps C-10.
#[test]
fn an_s3_store_keeps_every_promise() {
    let Some(server) = SeaweedFs::start() else { return };
    let n = AtomicU32::new(0);
    let shared = bucket_at(&server.endpoint(), "shared", "");
    shared.control(Retry::default(), &system_cx()).unwrap().create().unwrap();
    // Every other one shares a bucket with all before it.
    store_contract::check(|| {
        let n = n.fetch_add(1, Ordering::Relaxed);
        let own = match n % 2 {
            0 => bucket_at(&server.endpoint(), "shared", &format!("of/{n}")),
            _ => bucket_at(&server.endpoint(), &format!("own-{n}"), ""),
        };
        own.control(Retry::default(), &system_cx()).unwrap().create().unwrap();
        Box::new(own.store(Retry::default(), &system_cx()).unwrap()) as Box<dyn Store>
    });
}
