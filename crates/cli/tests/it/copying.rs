//! Copies, as somebody who keeps them meets them.

use crate::home::Home;
use hikae_testkit::SeaweedFs;
use std::fs;

/// A home with a repository, and one like it.
fn home() -> Home {
    home_with(|home| format!("'{}'", home.path("offsite").display()))
}

fn home_with(store: impl Fn(&Home) -> String) -> Home {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    home.write("more/b.txt", "two");
    home.configure(&format!(
        "[repository.main]\nstore = '{0}/main'\nunlock = {{ key_file = '{0}/main.key' }}\n\
         [repository.offsite]\nstore = {1}\nunlock = {{ key_file = '{0}/main.key' }}\n\
         [source.docs]\nkind = 'files'\ninclude = ['{0}/docs']\n\
         [source.more]\nkind = 'files'\ninclude = ['{0}/more']\n\
         [job.nightly]\nrepository = 'main'\ncopies = ['offsite']\n\
         [job.alone]\nrepository = 'main'\n",
        home.path("").display(),
        store(&home),
    ));
    home.expect(0, &["init", "--repository", "main"]);
    home
}

fn made_like(home: &Home) {
    home.expect(0, &["init", "--repository", "offsite", "--like", "main"]);
}

fn ids(home: &Home, repository: &str) -> Vec<String> {
    let listed = home.json(&["list", "--repository", repository]);
    let ids = listed["result"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
    ids.collect()
}

/// Keeps RS-26, RS-42, MK-71.
#[test]
fn what_is_copied_comes_back_from_the_copy_and_is_checked_against_its_listing() {
    let home = home();
    made_like(&home);
    home.expect(0, &["backup", "--job", "alone"]);
    let plan = home.expect(0, &["copy", "--repository", "main", "--to", "offsite", "--dry-run"]).stdout;
    assert!(plan.contains("Would copy 2 snapshots; nothing was written"), "{plan}");
    assert!(ids(&home, "offsite").is_empty());
    let copied = home.json(&["copy", "--repository", "main", "--to", "offsite"]);
    let check = &copied["result"]["check"];
    assert_eq!((&check["entries"], &check["packs"]), (&check["entries_expected"], &check["packs_expected"]));
    assert!(check["entries"].as_u64().unwrap() >= 4, "{check}");
    assert_eq!(ids(&home, "offsite"), ids(&home, "main"));
    home.expect(0, &["verify", "--repository", "offsite", "--read-data"]);
    fs::remove_dir_all(home.path("main")).unwrap();
    home.expect(
        0,
        &["restore", "docs", "--repository", "offsite", "--target", home.path("back").to_str().unwrap()],
    );
    let back = home.path("back").join(home.path("docs/a.txt").strip_prefix("/").unwrap());
    assert_eq!(fs::read(back).unwrap(), b"one");
    home.expect(0, &["drill", "--repository", "offsite"]);
}

#[test]
fn a_day_a_run_or_a_source_is_copied_by_itself_and_again_for_nothing() {
    let home = home();
    made_like(&home);
    home.expect(0, &["backup", "--job", "alone"]);
    let run = home.json(&["backup", "--job", "alone"])["result"]["run"].as_str().unwrap().to_owned();
    let today =
        home.json(&["list", "--repository", "main"])["result"][0]["moment"].as_str().unwrap().to_owned();
    let today: jiff::Timestamp = today.parse().unwrap();
    let copy = ["copy", "--repository", "main", "--to", "offsite"];
    let n = |more: &[&str]| {
        let plan = home.json(&[&copy[..], more, &["--dry-run"]].concat());
        plan["result"]["missing"].as_array().unwrap().len()
    };
    assert_eq!(
        (n(&[]), n(&["docs"]), n(&["--run", &run[..12]]), n(&["--source", "docs", "--run", &run])),
        (4, 2, 2, 1)
    );
    for zone in ["Asia/Tokyo", "Pacific/Honolulu"] {
        let day = today.in_tz(zone).unwrap().date();
        let (that, other) = (day.to_string(), day.yesterday().unwrap().to_string());
        assert_eq!(
            (n(&["--date", &that, "--time-zone", zone]), n(&["--date", &other, "--time-zone", zone])),
            (4, 0)
        );
    }
    home.expect(2, &[&copy[..], &["--date", "2026-11-20", "--time-zone", "Asia/Edo"]].concat());
    home.expect(2, &[&copy[..], &["--run", "zz"]].concat());
    home.expect(0, &[&copy[..], &["--run", &run]].concat());
    let again = home.expect(0, &[&copy[..], &["--run", &run]].concat()).stdout;
    assert!(again.contains("Copied 0 snapshots") && again.contains("2 there already"), "{again}");
    assert_eq!(ids(&home, "offsite").len(), 2);
}

#[test]
fn a_job_copies_what_it_has_made_and_says_so_and_a_copy_that_fails_takes_nothing_from_the_backup() {
    let home = home();
    // Nobody has made it yet.
    let ran = home.expect(10, &["backup", "--job", "nightly"]);
    assert!(ran.stdout.contains("Nothing was copied to offsite"), "{}", ran.stdout);
    assert_eq!(ids(&home, "main").len(), 2);
    made_like(&home);
    let ran = home.expect(0, &["backup", "--job", "nightly"]).stdout;
    assert!(ran.contains("Copied 4 snapshots"), "what the failed copy has left comes too: {ran}");
    assert_eq!(ids(&home, "offsite"), ids(&home, "main"));
    home.expect(0, &["backup", "--job", "alone"]);
    assert_eq!(ids(&home, "offsite").len(), 4);

    // What the copy forgot by its own rule does not come back with a job, nor when everything is asked for.
    home.expect(0, &["forget", "--repository", "offsite", "--keep-last", "1", "--source", "docs"]);
    let ran = home.json(&["backup", "--job", "nightly"]);
    assert_eq!(ran["result"]["copies"][0]["done"]["copied"].as_array().unwrap().len(), 4);
    let all = home.json(&["copy", "--repository", "main", "--to", "offsite"]);
    let n_copied = all["result"]["copied"].as_array().unwrap().len();
    assert_eq!((n_copied, &all["result"]["n_let_go"]), (0, &1.into()), "copied, n_let_go");
}

/// Keeps B-9.
#[test]
fn damage_of_the_source_ends_a_copy_with_its_own_code_and_is_named() {
    let home = home();
    made_like(&home);
    home.expect(0, &["backup", "--job", "alone"]);
    home.write("docs/a.txt", "another text, of which the copy shall have nothing");
    let before: Vec<_> = packs(&home, "main");
    home.expect(0, &["backup", "--job", "alone"]);
    for pack in packs(&home, "main").into_iter().filter(|pack| !before.contains(pack)) {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[3] ^= 4;
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let ran = home.expect(4, &["copy", "--repository", "main", "--to", "offsite"]).stdout;
    assert!(ran.contains("was not copied") && ran.contains("hikae repo repair"), "{ran}");
    home.expect(0, &["verify", "--repository", "offsite", "--read-data"]);
    assert!(!ids(&home, "offsite").is_empty());
}

/// Keeps B-9.
#[test]
fn a_damaged_repository_is_mended_from_one_of_its_family() {
    let home = home();
    made_like(&home);
    for n in 0..3 {
        home.write("docs/a.txt", format!("text {n} ").repeat(3000));
        home.expect(0, &["backup", "--job", "nightly"]);
    }
    // All that it keeps of contents and listings.
    for pack in packs(&home, "main") {
        fs::remove_file(pack).unwrap();
    }
    home.expect(4, &["verify", "--repository", "main"]);
    let repair = ["repo", "repair", "--repository", "main", "--from", "offsite"];
    let plan = home.run(&[&repair[..], &["--dry-run"]].concat()).stdout;
    assert!(plan.contains("Would put back") && packs(&home, "main").is_empty(), "{plan}");
    home.expect(0, &repair);
    home.expect(0, &["verify", "--repository", "main", "--read-data"]);
    home.expect(
        0,
        &["restore", "docs", "--repository", "main", "--target", home.path("back").to_str().unwrap()],
    );
}

/// Keeps MK-72.
#[test]
fn the_score_says_what_is_missing_and_a_loss_what_is_left() {
    let home = home();
    made_like(&home);
    let config = home.path("config/hikae/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "[repository.offsite]\n",
        "[repository.offsite]\ndomains = { site = 'tokyo' }\noffline = true\n",
    );
    fs::write(&config, format!("{text}\n[here]\nsite = 'osaka'\n")).unwrap();
    home.expect(0, &["backup", "--job", "nightly"]);
    home.write("docs/a.txt", "newer, and not copied");
    home.expect(0, &["backup", "--job", "alone"]);
    home.expect(0, &["drill", "--repository", "offsite", "docs"]);
    let shown = home.expect(0, &["copies"]).stdout;
    assert!(shown.contains("main and offsite have one key or account and count as one"), "{shown}");
    let report = home.json(&["copies"]);
    let docs = &report["result"]["sources"][0];
    let parts: Vec<_> =
        docs["score"]["parts"].as_array().unwrap().iter().map(|part| part["kept"] == true).collect();
    assert_eq!((parts[0], parts[2], parts[3], parts[4]), (false, true, true, false), "{docs}");
    // Without this machine's repository docs comes back older, from where a drill has restored it.
    let left = home.json(&["copies", "--without", "repository=main"]);
    let docs = &left["result"]["sources"][0];
    assert_eq!(docs["from"]["repository"], "offsite");
    assert!(
        docs["from"]["recovery_seconds"].as_f64().is_some() && docs["from"]["moment"] != docs["newest_today"]
    );
    assert!(left["result"]["sources"][1]["from"]["recovery_seconds"].is_null());
    home.expect(0, &["copies", "--without", "site=tokyo"]);
    let key = report["result"]["repositories"][0]["domains"]["key"].as_str().unwrap().to_owned();
    let lost = home.expect(13, &["copies", "--without", &format!("key={key}")]).stdout;
    assert!(lost.contains("2 of 2 sources do not survive"), "{lost}");
    home.expect(2, &["copies", "--without", "site=tokio"]);
    // One that cannot be looked at counts for nothing, and shows.
    fs::rename(home.path("offsite"), home.path("unplugged")).unwrap();
    let shown = home.expect(10, &["copies"]);
    assert!(shown.stderr.contains("offsite cannot be looked at"), "{}", shown.stderr);
    home.expect(13, &["copies", "--without", "site=osaka"]);
}

fn packs(home: &Home, repository: &str) -> Vec<std::path::PathBuf> {
    let below =
        |path: std::path::PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|file| file.path());
    below(home.path(repository).join("packs")).flat_map(below).collect()
}

#[test]
fn a_copy_into_a_bucket_is_whole() {
    let Some(server) = SeaweedFs::start() else { return };
    let home = home_with(|home| {
        let secret = home.write_private("s3.secret", SeaweedFs::SECRET_KEY);
        format!(
            "{{ s3 = {{ bucket = 'copies', endpoint = '{}', access_key = '{}', secret_key = 'file:{}' }} }}",
            server.endpoint(),
            SeaweedFs::ACCESS_KEY,
            secret.display()
        )
    });
    home.expect(0, &["store", "init", "--repository", "offsite"]);
    made_like(&home);
    for n in 0..3 {
        home.write("docs/a.txt", vec![n; 300_000]);
        home.expect(0, &["backup", "--job", "nightly"]);
    }
    assert_eq!(ids(&home, "offsite"), ids(&home, "main"));
    home.expect(0, &["verify", "--repository", "offsite", "--read-data"]);
    home.expect(0, &["drill", "--repository", "offsite"]);
}
