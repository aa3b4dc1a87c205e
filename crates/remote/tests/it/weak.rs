//! A real server that does not keep two writers of one name apart, and says nothing of it: trying shows.

use crate::retry;
use hikae_remote::{SftpError, SftpLogin, SftpSettings};
use hikae_store::probe::{Ability, Found, probe};
use hikae_store::{Durability, Reserve, Store};
use hikae_testkit::{Rclone, system_cx};

#[track_caller]
fn check_weak(store: &dyn Store) {
    for (ability, found) in probe(store, [1; 8]).unwrap() {
        let is_weak = matches!(ability, Ability::NeverReplace | Ability::OneWinner);
        assert_eq!(is_weak, matches!(found, Found::Broken(_)), "{ability:?}: {found:?}");
        assert_eq!(is_weak, ability.is_lacking(&found), "{ability:?}");
    }
}

/// It says that it knows `hardlink@openssh.com`, does not, and its plain rename writes over what is there.
#[test]
fn a_server_of_files_whose_rename_replaces_is_found_out() {
    let Some(server) = Rclone::start() else { return };
    let mut settings = SftpSettings {
        host: "127.0.0.1".to_owned(),
        port: Some(server.port()),
        user: Rclone::USER.to_owned(),
        path: "/store".to_owned(),
        host_key: None,
        known_hosts: None,
    };
    let enter = |settings: &SftpSettings, password: &str| {
        let login = SftpLogin { password: Some(password.to_owned().into()), ..SftpLogin::default() };
        settings.create(&login, Reserve::Usual, retry(), &system_cx())
    };
    let unknown = enter(&settings, Rclone::PASSWORD).map(drop);
    let Err(SftpError::HostKeyUnknown { found, .. }) = unknown else { panic!("{unknown:?}") };
    settings.host_key = Some(found);
    assert!(matches!(enter(&settings, "wrong").map(drop), Err(SftpError::Login { .. })));
    let store = enter(&settings, Rclone::PASSWORD).unwrap();
    check_weak(&store);
    assert!(matches!(store.durability().unwrap(), Durability::BestEffort { .. }));
    assert!(server.data().join("store/tmp").is_dir());
}
