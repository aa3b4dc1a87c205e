//! Stores over the network, on real servers.

mod faults;
mod s3;

use hikae_remote::{Bucket, Retry, S3Key, S3Settings};
use hikae_testkit::SeaweedFs;
use std::time::Duration;

/// A bucket of the server at `endpoint`.
fn bucket_at(endpoint: &str, name: &str, prefix: &str) -> Bucket {
    let settings = S3Settings {
        bucket: name.to_owned(),
        prefix: prefix.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        ca: None,
    };
    let key =
        S3Key { access_key: SeaweedFs::ACCESS_KEY.to_owned(), secret_key: SeaweedFs::SECRET_KEY.to_owned() };
    Bucket::new(&settings, &key).unwrap()
}

/// Patient enough for a test.
fn retry() -> Retry {
    Retry {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(200),
        deadline: Duration::from_secs(1),
    }
}
