//! Where a pipeline leads to, and whether it may: it speaks without TLS.

use std::net::IpAddr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{PgPool, SqlStr};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// Whether what is sent to there is not encrypted, and need not be.
pub(super) fn is_plain(options: &PgConnectOptions) -> bool {
    match options.get_ssl_mode() {
        PgSslMode::Disable => true,
        PgSslMode::Allow | PgSslMode::Prefer => is_by_socket(options) || is_loopback(options),
        _ => false,
    }
}

/// Behind an address of this machine may be a tunnel to a server that would encrypt.
pub(super) fn is_doubtful(options: &PgConnectOptions) -> bool {
    matches!(options.get_ssl_mode(), PgSslMode::Prefer) && !is_by_socket(options)
}

fn is_by_socket(options: &PgConnectOptions) -> bool {
    options.get_socket().is_some() || options.get_host().starts_with('/')
}

fn is_loopback(options: &PgConnectOptions) -> bool {
    let host = host(options);
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// By the `address` that the server has itself, which is to be asked for.
pub(super) async fn is_on_this_machine(
    pool: &PgPool,
    address: SqlStr,
) -> Result<bool, sqlx::Error> {
    let address: Option<String> = sqlx::query_scalar(address).fetch_one(pool).await?;
    let address = address.and_then(|address| address.parse().ok());
    Ok(address.is_some_and(|address: IpAddr| address.is_loopback()))
}

/// An address of version 6 without the brackets that it has in a URL.
fn host(options: &PgConnectOptions) -> &str {
    options.get_host().trim_matches(['[', ']'])
}

pub(super) fn config(options: &PgConnectOptions, password: Option<String>) -> Config {
    let mut config = Config::new();
    match options.get_socket() {
        #[cfg(unix)]
        Some(socket) => config.host_path(socket),
        _ => config.host(host(options)),
    };
    config
        .port(options.get_port())
        .user(options.get_username())
        .ssl_mode(SslMode::Disable);
    if let Some(password) = password {
        config.password(password);
    }
    if let Some(database) = options.get_database() {
        config.dbname(database);
    }
    if let Some(name) = options.get_application_name() {
        config.application_name(name);
    }
    if let Some(settings) = options.get_options() {
        config.options(settings);
    }
    config
}
