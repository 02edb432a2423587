//! Memory that a worker's exchanges use one after the other, so that a request allocates nothing.
//!
//! Owns how much of it is kept. Never holds a byte of a peer between two uses.

use super::exchange::transaction::Transaction;

/// Transactions that are kept for the next requests.
const SPARE_TRANSACTIONS_MAX: usize = 64;

/// Spare memory. Belongs to the worker, and is lent to each step of an exchange.
#[derive(Debug, Default)]
pub struct Recycler {
    #[expect(clippy::vec_box, reason = "they go on as the pointers that they come as")]
    transactions: Vec<Box<Transaction>>,
    page: Vec<u8>,
}

impl Recycler {
    /// A transaction that is over, for another to be written over it.
    pub(super) fn take_transaction(&mut self) -> Option<Box<Transaction>> {
        self.transactions.pop()
    }

    /// Keeps a transaction that is over, unless enough are kept.
    pub(super) fn put_transaction(&mut self, mut transaction: Box<Transaction>) {
        if self.transactions.len() < SPARE_TRANSACTIONS_MAX {
            transaction.clear();
            self.transactions.push(transaction);
        }
    }

    /// An empty buffer for the content of a page.
    pub(super) fn take_page(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.page)
    }

    /// Keeps the buffer for the next page.
    pub(super) fn put_page(&mut self, mut page: Vec<u8>) {
        page.clear();
        self.page = page;
    }
}
