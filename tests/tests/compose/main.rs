//! The local mesh of `docker-compose.yml`: the tour of its document, and what becomes of it when parts fail.
//!
//! Run one at a time (`--test-threads 1`): the outside world has addresses that can be there only once.

mod failures;
mod prober;
mod tour;
