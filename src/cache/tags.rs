//! Tags: what an item is marked with, and what marks many items at once.

use serde::Serialize;

use super::links::{Links, check_tag};
use super::rows::rows_of_keys;
use super::{Cache, Expiration, Remakes};
use crate::database::{Sql, Transaction, Tx, query};
use crate::error::Result;

/// Items cleared or marked at once: some milliseconds of work.
const PAGE: i64 = 1_000;

/// What becomes of the items that carry a tag.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Clear,
    MarkStale,
}

impl Cache {
    /// Writing items that carry `tags`, in place of those that they carried: see [`Tagged`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use larder::{Cache, Expiration};
    ///
    /// let cache = Cache::connect("sqlite::memory:").await?;
    /// cache.tagged(["prices", "shop-7"]).set("price:1", &995, Expiration::Never).await?;
    /// cache.tagged(["prices"]).set("price:2", &1250, 3600).await?;
    /// assert_eq!(cache.clear_tag("shop-7").await?, 1);
    /// assert_eq!(cache.get::<i64>("price:2").await?, Some(1250));
    /// # Ok::<(), larder::Error>(()) }).unwrap();
    /// ```
    pub fn tagged(&self, tags: impl IntoIterator<Item = impl Into<String>>) -> Tagged<'_> {
        let mut links = Links::default();
        links.add_tags(tags);
        Tagged { cache: self, links }
    }

    /// Deletes the items that carry `tag`, and returns how many rows there were, live or not. What was built from them
    /// goes too, uncounted; computations that declare the tag do not write back. It goes in short batches.
    ///
    /// # Errors
    /// Where no tag can be so, or the database fails; the batches before stay deleted.
    pub async fn clear_tag(&self, tag: &str) -> Result<u64> {
        self.tag_pages(tag, What::Clear).await
    }

    /// [`Cache::clear_tag`] in the caller's transaction. Also a computation that begins before the transaction commits
    /// does not write back.
    ///
    /// # Errors
    /// As [`Cache::clear_tag`], and where the transaction is of the other engine.
    pub async fn clear_tag_in<'c>(&self, tx: impl Into<Tx<'c>>, tag: &str) -> Result<u64> {
        self.all_tag_pages_in(tx.into(), tag, What::Clear, None)
            .await
    }

    /// Makes the items that carry `tag`, and what was built from them, stale: [`Memoize`](super::Memoize) serves them on
    /// for as long as they live, and refreshes each at its next use. Returns how many live items carry the tag.
    ///
    /// # Errors
    /// As [`Cache::clear_tag`].
    pub async fn mark_tag_stale(&self, tag: &str) -> Result<u64> {
        self.tag_pages(tag, What::MarkStale).await
    }

    /// [`Cache::mark_tag_stale`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Cache::clear_tag_in`].
    pub async fn mark_tag_stale_in<'c>(&self, tx: impl Into<Tx<'c>>, tag: &str) -> Result<u64> {
        self.all_tag_pages_in(tx.into(), tag, What::MarkStale, None)
            .await
    }

    async fn tag_pages(&self, tag: &str, what: What) -> Result<u64> {
        check_tag(tag)?;
        let _writing = self.writing_anything();
        let (mut last, mut count) = (String::new(), 0);
        loop {
            let mut transaction: Transaction = self.place.database.begin().await?;
            let page = self
                .tag_page_in(&mut (&mut transaction).into(), tag, &last, what, None)
                .await?;
            transaction.commit().await?;
            count += page.count;
            match page.last {
                Some(key) => last = key,
                None => return Ok(count),
            }
        }
    }

    /// Also says what made the items, where that is wanted.
    pub(crate) async fn all_tag_pages_in(
        &self,
        tx: Tx<'_>,
        tag: &str,
        what: What,
        mut remakes: Option<&mut Remakes>,
    ) -> Result<u64> {
        check_tag(tag)?;
        let _writing = self.writing_anything();
        let mut tx = self.place.database.own(tx)?;
        self.place
            .database
            .hold(&mut tx, &self.scope_of_tag(tag))
            .await?;
        let (mut last, mut count) = (String::new(), 0);
        loop {
            let page = self
                .tag_page_in(&mut tx, tag, &last, what, remakes.as_deref_mut())
                .await?;
            count += page.count;
            match page.last {
                Some(key) => last = key,
                None => return Ok(count),
            }
        }
    }

    /// The items after `last` that carry the tag, locked in the order of their keys, and then what is to be done.
    async fn tag_page_in(
        &self,
        tx: &mut Tx<'_>,
        tag: &str,
        last: &str,
        what: What,
        remakes: Option<&mut Remakes>,
    ) -> Result<Page> {
        let now = self.now();
        let rows: Vec<(String, bool, bool)> = query!(
            self.place.database,
            tx,
            fetch_all,
            Sql::TagPage,
            &*self.place.namespace,
            tag,
            last,
            now,
            PAGE
        )?;
        let counted = |(_, vacant, live): &&(String, bool, bool)| match what {
            What::Clear => !vacant,
            What::MarkStale => *live,
        };
        let count = rows.iter().filter(counted).count() as u64;
        if !rows.is_empty() {
            let keys = rows_of_keys(rows.iter().map(|(key, ..)| key))?;
            if let Some(remakes) = remakes {
                self.remakes_in(tx, &keys, remakes).await?;
            }
            match what {
                What::Clear => {
                    self.delete_rows(tx, rows.iter().map(|(key, ..)| key))
                        .await?;
                }
                What::MarkStale => {
                    query!(
                        self.place.database,
                        tx,
                        execute,
                        Sql::ItemStale,
                        &*self.place.namespace,
                        &keys,
                        now
                    )?;
                }
            }
        }
        let last = rows.into_iter().map(|(key, ..)| key).next_back();
        Ok(Page { count, last })
    }
}

/// One page of the items that carry a tag.
struct Page {
    count: u64,
    /// The last of its keys, after which the next begins; none where the page is empty.
    last: Option<String>,
}

/// Writing items that carry tags; made by [`Cache::tagged`].
///
/// An item keeps its tags while it lives: a plain [`set`](Cache::set), `touch` and `increment` leave them as they are. One
/// that expired, or was deleted, comes back without.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use larder::Expiration;
/// let cache = larder::Cache::connect("sqlite::memory:").await?;
/// cache.tagged(["users"]).set("user:7", "Ada", Expiration::Never).await?;
/// cache.set("user:7", "Grace").await?;
/// assert_eq!(cache.info("user:7").await?.unwrap().tags, ["users"]);
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is written until `set`, `set_many` or `add`"]
pub struct Tagged<'a> {
    cache: &'a Cache,
    links: Links,
}

impl Tagged<'_> {
    /// The keys that the items are built from, as [`Memoize::depends_on`](super::Memoize::depends_on).
    pub fn depends_on(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.links.add_dependencies(keys);
        self
    }

    /// As [`Cache::set_with`].
    ///
    /// # Errors
    /// As [`Cache::set_with`], and where a tag is not 1 to 255 bytes.
    pub async fn set<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        let _writing = self.cache.writing([key]);
        let mut transaction = self.cache.place.database.begin().await?;
        self.set_in(&mut transaction, key, value, expiration)
            .await?;
        transaction.commit().await
    }

    /// [`Tagged::set`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Tagged::set`], and where the transaction is of the other engine.
    pub async fn set_in<'c, T: Serialize + ?Sized>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        self.links.check()?;
        let mut tx = self.cache.place.database.own(tx)?;
        let linked = !self.links.is_empty();
        self.need_in(&mut tx).await?;
        self.cache
            .set_linked_in(&mut tx, key, value, expiration.into(), linked)
            .await?;
        self.cache.keep_links(&mut tx, &self.links, [key]).await
    }

    /// As [`Cache::set_many`].
    ///
    /// # Errors
    /// As [`Tagged::set`].
    pub async fn set_many<T: Serialize>(
        &self,
        items: impl IntoIterator<Item = (impl AsRef<str>, T)>,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        let items: Vec<_> = items.into_iter().collect();
        let _writing = self.cache.writing(items.iter().map(|(key, _)| key));
        let mut transaction = self.cache.place.database.begin().await?;
        self.set_many_in(&mut transaction, items, expiration)
            .await?;
        transaction.commit().await
    }

    /// [`Tagged::set_many`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Tagged::set_in`].
    pub async fn set_many_in<'c, T: Serialize>(
        &self,
        tx: impl Into<Tx<'c>>,
        items: impl IntoIterator<Item = (impl AsRef<str>, T)>,
        expiration: impl Into<Expiration>,
    ) -> Result<()> {
        self.links.check()?;
        let items: Vec<_> = items.into_iter().collect();
        let keys: Vec<String> = items
            .iter()
            .map(|(key, _)| key.as_ref().to_owned())
            .collect();
        let mut tx = self.cache.place.database.own(tx)?;
        let linked = !self.links.is_empty();
        self.need_in(&mut tx).await?;
        self.cache
            .set_many_linked_in(&mut tx, items, expiration.into(), linked)
            .await?;
        let keys = keys.iter().map(String::as_str);
        self.cache.keep_links(&mut tx, &self.links, keys).await
    }

    /// As [`Cache::add`].
    ///
    /// # Errors
    /// As [`Tagged::set`].
    pub async fn add<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        let _writing = self.cache.writing([key]);
        let mut transaction = self.cache.place.database.begin().await?;
        let added = self
            .add_in(&mut transaction, key, value, expiration)
            .await?;
        transaction.commit().await?;
        Ok(added)
    }

    /// [`Tagged::add`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Tagged::set_in`].
    pub async fn add_in<'c, T: Serialize + ?Sized>(
        &self,
        tx: impl Into<Tx<'c>>,
        key: &str,
        value: &T,
        expiration: impl Into<Expiration>,
    ) -> Result<bool> {
        self.links.check()?;
        let mut tx = self.cache.place.database.own(tx)?;
        let linked = !self.links.is_empty();
        self.need_in(&mut tx).await?;
        let added = self
            .cache
            .add_linked_in(&mut tx, key, value, expiration.into(), linked)
            .await?;
        if added {
            self.cache.keep_links(&mut tx, &self.links, [key]).await?;
        }
        Ok(added)
    }

    /// First, as whoever invalidates locks them: what others are built from, and then these.
    async fn need_in(&self, tx: &mut Tx<'_>) -> Result<()> {
        if self.links.dependencies().is_empty() {
            return Ok(());
        }
        self.cache.need_in(tx, self.links.dependencies()).await
    }
}
