//! The words of clients, turned into [`InferenceRequest`](worker_contract::InferenceRequest)s, and
//! answers back into their words. A dialect knows no worker, no scheduler and no connection.

pub mod openai;
