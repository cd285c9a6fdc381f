//! A statement that is not part of a transaction, where statements must not have names.
//!
//! The client sends a statement's text, and after the answer its arguments. A PgBouncer in transaction mode may hand the
//! two to different servers, and the arguments then meet whatever statement somebody else has left there. Within a
//! transaction it keeps to one.

use sqlx::{Connection, PgConnection, Postgres};

/// A connection for one statement.
pub(crate) enum Alone<'c> {
    /// Statements have names, or the caller's transaction is open.
    Plain(&'c mut PgConnection),
    /// A transaction around it.
    Begun(sqlx::Transaction<'c, Postgres>),
}

impl<'c> Alone<'c> {
    pub(crate) async fn on(
        connection: &'c mut PgConnection,
        prepared: bool,
    ) -> Result<Self, sqlx::Error> {
        if prepared || connection.is_in_transaction() {
            return Ok(Self::Plain(connection));
        }
        Ok(Self::Begun(connection.begin().await?))
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Begun(transaction) => transaction,
        }
    }

    /// Keeps what the statement did, unless it failed.
    pub(crate) async fn end<T>(self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if let (Self::Begun(transaction), Ok(_)) = (self, &outcome) {
            transaction.commit().await?;
        }
        outcome
    }
}
