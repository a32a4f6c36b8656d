//! What is at which path, and what is wrong with a request.

use tiny_http::{Method, Request};

use crate::{Site, ask, html, metrics};

/// What to answer, or a status and a sentence.
pub(crate) fn route(site: &Site, request: &Request) -> Result<String, (u16, String)> {
    use Method::{Get, Post};
    let pool = &site.pool;
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    let sentence = match (request.method(), path) {
        (Get, "/") => {
            ask(site).map_err(|error| (503, format!("The upstream is away: {error}.")))?
        }
        (Get, "/pool") => html::page(site),
        (Get, "/stats") => pool.stats().to_string(),
        (Get, "/metrics") => {
            let outage = pool.outage().is_some();
            return Ok(metrics::text(&pool.stats(), outage, &site.upstream));
        }
        (Post, _) if is_foreign(request) => {
            return Err((403, "A page of another site has sent this.".into()));
        }
        (Post, "/free") => {
            let freed = pool.free(number(query, "keep")?);
            let (kept, closed, doomed) = (freed.kept, freed.closed, freed.doomed);
            format!("Kept {kept}, closed {closed}; {doomed} in use will close when they come back.")
        }
        (Post, "/limit") => {
            pool.set_limit(number(query, "n")?);
            format!("The limit is {} now.", pool.limit())
        }
        (Post, "/end") => {
            pool.end();
            "The pool has ended.".into()
        }
        (_, "/" | "/pool" | "/stats" | "/metrics") => {
            return Err((405, "This can only be read: use GET.".into()));
        }
        (_, "/free" | "/limit" | "/end") => {
            return Err((405, "This changes something: use POST.".into()));
        }
        _ => return Err((404, "There is no such page; try /pool.".into())),
    };
    Ok(sentence + "\n")
}

/// A number from the query, or what is wrong with it.
fn number(query: &str, name: &str) -> Result<usize, (u16, String)> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok());
    value.filter(|number| *number <= 10_000).ok_or_else(|| {
        (
            400,
            format!("{name} must be a whole number from 0 to 10000, as in ?{name}=2."),
        )
    })
}

/// Whether a browser says that it sends this for a page of somebody else's.
fn is_foreign(request: &Request) -> bool {
    let mut headers = request.headers().iter();
    let site = headers.find(|header| header.field.equiv("Sec-Fetch-Site"));
    site.is_some_and(|site| !matches!(site.value.as_str(), "same-origin" | "none"))
}
