//! Memory that a worker's exchanges reuse, so that a request allocates nothing.
//!
//! Owns how much memory is spare. Buffers are cleared between two uses.

use super::exchange::transaction::Transaction;

/// Maximum number of spare transactions.
const SPARE_TRANSACTIONS_MAX: usize = 64;

/// Spare memory. Belongs to the worker, and is lent to each step of an exchange.
#[derive(Debug, Default)]
pub struct Recycler {
    #[expect(clippy::vec_box, reason = "transactions are moved as pointers, without a copy")]
    transactions: Vec<Box<Transaction>>,
    page: Vec<u8>,
}

impl Recycler {
    /// Takes a spare transaction, to be overwritten.
    pub(super) fn take_transaction(&mut self) -> Option<Box<Transaction>> {
        self.transactions.pop()
    }

    /// Stores a finished transaction, unless enough are spare.
    pub(super) fn put_transaction(&mut self, mut transaction: Box<Transaction>) {
        if self.transactions.len() < SPARE_TRANSACTIONS_MAX {
            transaction.clear();
            self.transactions.push(transaction);
        }
    }

    /// Takes an empty buffer for the content of a page.
    pub(super) fn take_page(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.page)
    }

    /// Stores the buffer for the next page.
    pub(super) fn put_page(&mut self, mut page: Vec<u8>) {
        page.clear();
        self.page = page;
    }
}
