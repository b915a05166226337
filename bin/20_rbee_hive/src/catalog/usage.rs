//! Who uses which model: workers share it, a removal needs it alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worker_contract::ModelAlias;

/// The use of all models of a hive.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelUsage {
    table: Arc<Mutex<BTreeMap<ModelAlias, Use>>>,
}

#[derive(Debug)]
enum Use {
    Shared(u32),
    BeingRemoved,
}

/// The model cannot be removed while this exists.
#[derive(Debug)]
pub(crate) struct InUse {
    alias: ModelAlias,
    usage: ModelUsage,
}

/// No worker can begin to use the model while this exists.
#[derive(Debug)]
pub(crate) struct BeingRemoved {
    alias: ModelAlias,
    usage: ModelUsage,
}

impl ModelUsage {
    /// Notes one more user; `None` while the model is being removed.
    pub(crate) fn share(&self, alias: &ModelAlias) -> Option<InUse> {
        match self.table().entry(alias.clone()).or_insert(Use::Shared(0)) {
            Use::Shared(users) => *users += 1,
            Use::BeingRemoved => return None,
        }
        Some(InUse { alias: alias.clone(), usage: self.clone() })
    }

    /// Keeps users away; `None` while there are any.
    pub(crate) fn exclude(&self, alias: &ModelAlias) -> Option<BeingRemoved> {
        let mut table = self.table();
        if table.contains_key(alias) {
            return None;
        }
        table.insert(alias.clone(), Use::BeingRemoved);
        Some(BeingRemoved { alias: alias.clone(), usage: self.clone() })
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<ModelAlias, Use>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut table = self.usage.table();
        if let Some(Use::Shared(users)) = table.get_mut(&self.alias) {
            *users -= 1;
            if *users == 0 {
                table.remove(&self.alias);
            }
        }
    }
}

impl Drop for BeingRemoved {
    fn drop(&mut self) {
        self.usage.table().remove(&self.alias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_removed_only_when_its_last_user_is_gone() {
        let (usage, alias) = (ModelUsage::default(), "m".parse().unwrap());
        let (first, second) = (usage.share(&alias).unwrap(), usage.share(&alias).unwrap());
        assert!(usage.exclude(&alias).is_none());
        drop(first);
        assert!(usage.exclude(&alias).is_none());
        drop(second);
        assert!(usage.exclude(&alias).is_some());
    }

    #[test]
    fn a_model_that_is_being_removed_gets_no_user() {
        let (usage, alias) = (ModelUsage::default(), "m".parse().unwrap());
        let removal = usage.exclude(&alias).unwrap();
        assert!(usage.share(&alias).is_none());
        assert!(usage.exclude(&alias).is_none());
        assert!(usage.share(&"other".parse().unwrap()).is_some());
        drop(removal);
        assert!(usage.share(&alias).is_some());
    }
}
