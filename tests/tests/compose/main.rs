//! The local mesh of `docker-compose.yml`: the commands of its document, and its behaviour when parts fail.
//! Run one test at a time (`--test-threads 1`): the addresses of the outside network can exist only once.

mod failures;
mod prober;
mod tour;
