//! `hikae pg`: what belongs to a running PostgreSQL server beside its base backups.

mod receive;
mod restore_point;
mod setup;
mod window;

use crate::app::App;
use crate::failure::{Ended, Failure};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum PgCommand {
    Window(window::WindowArgs),
    Receive(receive::ReceiveArgs),
    RestorePoint(restore_point::RestorePointArgs),
    Setup(setup::SetupArgs),
}

pub fn run(command: &PgCommand, app: &App) -> Result<Ended, Failure> {
    match command {
        PgCommand::Window(args) => window::run(args, app),
        PgCommand::Receive(args) => receive::run(args, app),
        PgCommand::RestorePoint(args) => restore_point::run(args, app),
        PgCommand::Setup(args) => setup::run(args, app),
    }
}
