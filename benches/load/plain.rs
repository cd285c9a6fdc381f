//! The same upsert on sqlx alone, to compare.

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::Profile;

/// A table as anybody would make it.
pub(crate) struct Plain {
    pool: PgPool,
    upsert: sqlx::SqlStr,
}

impl Plain {
    pub(crate) async fn new(url: &str, schema: &str) -> Self {
        use sqlx::SqlSafeStr;
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await
            .unwrap();
        let table = format!("\"{schema}\".plain_item");
        let create = format!(
            "CREATE TABLE {table} (key text PRIMARY KEY, value json NOT NULL, expires_at timestamptz)"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(create))
            .execute(&pool)
            .await
            .unwrap();
        let upsert = format!(
            "INSERT INTO {table} (key, value, expires_at) VALUES ($1, CAST($2 AS json), NULL) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
        );
        Self {
            pool,
            upsert: sqlx::AssertSqlSafe(upsert).into_sql_str(),
        }
    }

    pub(crate) async fn set(&self, key: &str, value: &Profile) {
        let text = serde_json::to_string(value).unwrap();
        let upsert = sqlx::query(self.upsert.clone()).bind(key).bind(text);
        upsert.execute(&self.pool).await.unwrap();
    }
}
