//! The recovery sheet on paper: as text, and as a page to print with a QR code.
//!
//! Both are written for their owner alone; whoever has a sheet and the repository can read every backup.

use crate::app::App;
use crate::failure::Failure;
use hikae_model::ErrorCode;
use hikae_ops::private_file;
use hikae_ops::recovery::{RecoverySheet, SheetsDue};
use qrcode::render::{svg, unicode};
use qrcode::{EcLevel, QrCode};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where the two forms of a sheet stand.
#[derive(Clone, Debug, serde::Serialize)]
pub struct WrittenSheet {
    /// Text.
    pub text: PathBuf,
    /// HTML.
    pub html: PathBuf,
}

/// Writes both forms below `directory`, in place of an earlier sheet of the same repository.
///
/// # Errors
/// A file that cannot be written.
pub fn write(sheet: &RecoverySheet, directory: &Path, app: &App) -> Result<WrittenSheet, Failure> {
    private_file::create_directory_durably(directory)?;
    let name = format!("recovery-sheet-{}", &sheet.repository.to_string()[..8]);
    let written = WrittenSheet {
        text: directory.join(format!("{name}.txt")),
        html: directory.join(format!("{name}.html")),
    };
    private_file::replace(&written.text, text(sheet, app)?.as_bytes())?;
    private_file::replace(&written.html, html(sheet, app)?.as_bytes())?;
    SheetsDue::below(&app.around.data).remove(&sheet.address)?;
    Ok(written)
}

/// What stands on the sheet beside the secret.
fn facts(sheet: &RecoverySheet, app: &App) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Repository", sheet.repository.to_string()),
        ("Store", sheet.address.clone()),
        ("Host", app.around.host.clone()),
        ("Root key", sheet.root_fingerprint.clone()),
        ("Format", format!("{}, written by hikae {}", sheet.format, sheet.release)),
        ("Date", app.time(sheet.written)),
    ];
    facts.extend(sheet.recipients.iter().map(|recipient| ("Recipient", recipient.clone())));
    facts
}

fn what_it_opens(sheet: &RecoverySheet) -> &'static str {
    match sheet.opens_contents {
        true => {
            "Whoever has this sheet and the repository can read every backup. Keep it on paper, away from the machine."
        }
        false => {
            "This secret opens lists of files. Contents open only for the recipients below: keep their identities too."
        }
    }
}

const STEPS: [&str; 3] = [
    "Install hikae and bring the repository (the directory named under Store) to the machine.",
    "hikae list --store DIRECTORY --recovery -      and type or paste the secret",
    "hikae restore SNAPSHOT --target FOLDER --store DIRECTORY --recovery -",
];

/// The sheet as text.
///
/// # Errors
/// A secret that no QR code holds, which does not happen.
pub fn text(sheet: &RecoverySheet, app: &App) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::from("RECOVERY SHEET OF A HIKAE REPOSITORY\n\n"));
    text.push_str(&format!("{}\n\nSecret:\n\n", what_it_opens(sheet)));
    for line in lines(&sheet.secret) {
        text.push_str(&format!("    {line}\n"));
    }
    text.push('\n');
    for (name, value) in facts(sheet, app) {
        text.push_str(&format!("{name:<12}{value}\n"));
    }
    text.push_str("\nTo restore on a new machine:\n\n");
    for (n, step) in STEPS.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", n + 1));
    }
    let code = qr(&sheet.compact)?;
    let drawn = code.render::<unicode::Dense1x2>().quiet_zone(true).build();
    text.push_str(&format!("\nThe secret as a QR code:\n\n{drawn}\n"));
    Ok(text)
}

/// Four groups of five characters a line.
fn lines(secret: &str) -> Vec<String> {
    let groups: Vec<&str> = secret.split(' ').collect();
    groups.chunks(5).map(|line| line.join(" ")).collect()
}

fn qr(secret: &str) -> Result<QrCode, Failure> {
    QrCode::with_error_correction_level(secret, EcLevel::Q)
        .map_err(|error| Failure::new(ErrorCode::Failure, format!("cannot draw the QR code: {error}"), None))
}

/// The sheet as a page to print: one file, nothing fetched from anywhere.
///
/// # Errors
/// As for [`text`].
pub fn html(sheet: &RecoverySheet, app: &App) -> Result<Zeroizing<String>, Failure> {
    let code = qr(&sheet.compact)?;
    let drawn = code.render::<svg::Color<'_>>().min_dimensions(260, 260).build();
    // An XML declaration has no place inside a page.
    let drawn = drawn.split_once("?>").map_or(drawn.as_str(), |(_, svg)| svg);
    let mut page = Zeroizing::new(String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Recovery sheet</title>\n<style>\n\
         body { font: 11pt/1.5 sans-serif; max-width: 17cm; margin: 1.5cm auto; color: #000; background: #fff }\n\
         h1 { font-size: 16pt } .secret { font: bold 15pt/1.7 monospace; border: 1px solid; padding: .5em 1em }\n\
         table { border-collapse: collapse } td { padding: .1em 1em .1em 0; vertical-align: top; overflow-wrap: anywhere }\n\
         code { font-size: 10pt } svg { display: block; margin: 1em 0 }\n\
         </style></head><body>\n<h1>Recovery sheet of a hikae repository</h1>\n",
    ));
    // Writing to a string does not fail.
    let _ = write!(page, "<p>{}</p>\n<p class=\"secret\">", escape(what_it_opens(sheet)));
    let _ = write!(page, "{}</p>\n{drawn}\n<table>\n", lines(&sheet.secret).join("<br>"));
    for (name, value) in facts(sheet, app) {
        let _ = writeln!(page, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
    }
    page.push_str("</table>\n<p>To restore on a new machine:</p>\n<ol>\n");
    for step in STEPS {
        let _ = writeln!(page, "<li><code>{}</code></li>", escape(step));
    }
    page.push_str("</ol>\n</body></html>\n");
    Ok(page)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
