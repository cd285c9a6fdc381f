//! What an item hangs on: its tags, and the keys that it was built from.

use super::Cache;
use super::limits::{check_key, check_text};
use super::rows::{rows_of_keys, to_rows};
use super::write::new_generation;
use crate::database::{Sql, Tx, query};
use crate::error::Result;

const TAG: &str = "tag";
const KEY: &str = "key";

/// Tags, and keys that others are built from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    tags: Vec<String>,
    dependencies: Vec<String>,
}

pub(super) fn owned(texts: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    texts.into_iter().map(Into::into).collect()
}

pub(super) fn check_tag(tag: &str) -> Result<()> {
    check_text("a tag", tag, 1, 255)
}

impl Links {
    pub(crate) fn add_tags(&mut self, tags: impl IntoIterator<Item = impl Into<String>>) {
        self.tags.extend(owned(tags));
    }

    pub(crate) fn add_dependencies(&mut self, keys: impl IntoIterator<Item = impl Into<String>>) {
        self.dependencies.extend(owned(keys));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.dependencies.is_empty()
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }

    pub(crate) fn dependencies(&self) -> &[String] {
        &self.dependencies
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.tags.iter().try_for_each(|tag| check_tag(tag))?;
        self.dependencies.iter().try_for_each(|key| check_key(key))
    }

    fn rows<'a>(&'a self, keys: &[&'a str]) -> Vec<(&'static str, &'a str, &'a str)> {
        let tags = self.tags().map(|tag| (TAG, tag));
        let links = tags.chain(self.dependencies.iter().map(|key| (KEY, key.as_str())));
        let mut rows: Vec<_> = links
            .flat_map(|(kind, name)| keys.iter().map(move |key| (kind, name, *key)))
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

impl Cache {
    pub(super) async fn add_links<'k>(
        &self,
        tx: &mut Tx<'_>,
        links: &Links,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Result<()> {
        let keys: Vec<_> = keys.into_iter().collect();
        let rows = to_rows(&links.rows(&keys))?;
        query!(
            self.place.database,
            tx,
            execute,
            Sql::LinkAdd,
            &*self.place.namespace,
            &rows
        )?;
        Ok(())
    }

    /// Makes `links` the only ones of `keys`.
    pub(super) async fn keep_links<'k>(
        &self,
        tx: &mut Tx<'_>,
        links: &Links,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Result<()> {
        let keys: Vec<_> = keys.into_iter().collect();
        let kept = to_rows(&links.rows(&keys))?;
        let of = rows_of_keys(&keys)?;
        query!(
            self.place.database,
            tx,
            execute,
            Sql::LinkKeep,
            &*self.place.namespace,
            &of,
            &kept
        )?;
        if links.is_empty() {
            return Ok(());
        }
        self.add_links(tx, links, keys).await
    }

    /// Marks the rows of keys that others are built from, making them where there are none. It waits for whoever is
    /// about to write one.
    pub(super) async fn need(&self, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut connection = self.place.database.write().await?;
        self.need_in(&mut connection.tx(), keys).await
    }

    pub(super) async fn need_in(&self, tx: &mut Tx<'_>, keys: &[String]) -> Result<()> {
        let keys = rows_of_keys(keys)?;
        query!(
            self.place.database,
            tx,
            execute,
            Sql::ItemNeed,
            &*self.place.namespace,
            &keys,
            new_generation(),
            self.now()
        )?;
        Ok(())
    }

    /// The tags of an item, and the keys that it was built from.
    pub(super) async fn links_of(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let rows: Vec<(String, String)> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::LinksOf,
            &*self.place.namespace,
            key
        )?;
        let (tags, dependencies): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(kind, _)| kind == TAG);
        let names = |rows: Vec<(String, String)>| rows.into_iter().map(|(_, name)| name).collect();
        Ok((names(tags), names(dependencies)))
    }
}
