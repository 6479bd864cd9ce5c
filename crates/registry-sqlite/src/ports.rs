//! The five ports on the tables of the database, one module each.

mod hives;
mod keys;
mod launches;
mod models;
mod observations;
