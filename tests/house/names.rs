//! Finds which file uses which names of which other files, and the circles among them.
//!
//! A name counts where it is used, not where it is re-exported. Declaring a module uses no name, nor does re-exporting
//! the names of a child module.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{Code, LIBRARY, Module};

/// The names that each file takes, by the file that declares them. A module that is imported is `self`, a glob `*`.
pub(crate) struct Uses(pub(crate) BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

/// Where a path leads: to a module, or to an item in it.
struct Target {
    module: Module,
    item: Option<String>,
}

impl Uses {
    pub(crate) fn of(code: &Code) -> Self {
        let mut uses = Self(BTreeMap::new());
        for (at, scope) in &code.scopes {
            for import in &scope.imports {
                let passed_on = |to: &Target| import.is_public && to.module.starts_with(at);
                for target in resolve(code, at, &import.path).into_iter().filter(|to| !passed_on(to)) {
                    let module = if import.name == "*" { "*" } else { "self" };
                    uses.add(code, &scope.file, &target.module, target.item.as_deref().unwrap_or(module));
                }
            }
            for target in scope.paths.iter().flat_map(|path| resolve(code, at, path)) {
                if let Some(item) = &target.item {
                    uses.add(code, &scope.file, &target.module, item);
                }
            }
        }
        uses
    }

    fn add(&mut self, code: &Code, from: &str, module: &Module, name: &str) {
        if let Some(to) = code.scopes.get(module).map(|scope| &scope.file)
            && to != from
        {
            let targets = self.0.entry(from.to_owned()).or_default();
            targets.entry(to.clone()).or_default().insert(name.to_owned());
        }
    }

    /// The uses between files that `selects` selects, one a line.
    pub(crate) fn lines(&self, selects: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        for (from, targets) in self.0.iter().filter(|(from, _)| selects(from)) {
            for (to, names) in targets.iter().filter(|(to, _)| selects(to)) {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                lines.push(format!("{from} -> {to}: {}", names.join(", ")));
            }
        }
        lines
    }

    /// The circles: each as the files that all lead to each other.
    pub(crate) fn circles(&self) -> BTreeSet<BTreeSet<&str>> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.0.keys().map(|from| (from.as_str(), self.reached(from))).collect();
        let leads = |from: &str, to: &str| reached.get(from).is_some_and(|all| all.contains(to));
        reached
            .iter()
            .map(|(from, all)| all.iter().copied().filter(|to| leads(to, from)).collect())
            .filter(|circle: &BTreeSet<&str>| !circle.is_empty())
            .collect()
    }

    fn reached(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            for target in self.0.get(file).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(target.as_str()) {
                    next.push(target);
                }
            }
        }
        reached
    }
}

/// Resolves a path in this module. Empty if it belongs to another crate, or is a local variable or a parameter.
fn resolve(code: &Code, at: &Module, path: &[String]) -> Vec<Target> {
    Resolver { code, open: BTreeSet::new() }.path(at, path)
}

struct Resolver<'a> {
    code: &'a Code,
    /// The lookups in progress: imports and globs may lead back to them.
    open: BTreeSet<(Module, String)>,
}

impl Resolver<'_> {
    fn path(&mut self, at: &Module, path: &[String]) -> Vec<Target> {
        let (mut module, mut rest) = match path {
            [first, others @ ..] if first == "psystrike" => (vec![LIBRARY.to_owned()], others),
            _ => (at.clone(), path),
        };
        while let [first, others @ ..] = rest {
            match first.as_str() {
                "crate" => module.truncate(1),
                "self" => {}
                "super" => drop(module.pop()),
                _ => break,
            }
            rest = others;
        }
        if rest.len() < path.len() {
            return self.below(Target { module, item: None }, rest);
        }
        let [name, others @ ..] = rest else { return Vec::new() };
        let members = self.members(&module, name);
        members.into_iter().flat_map(|member| self.below(member, others)).collect()
    }

    /// Where the rest of a path leads from here. Names after an item belong to it.
    fn below(&mut self, target: Target, rest: &[String]) -> Vec<Target> {
        let [name, others @ ..] = rest else { return vec![target] };
        if target.item.is_some() {
            return vec![target];
        }
        let mut members = self.members(&target.module, name);
        if members.is_empty() {
            members.push(Target { item: Some(name.clone()), ..target }); // declared by a macro
        }
        members.into_iter().flat_map(|member| self.below(member, others)).collect()
    }

    /// Resolves a name in a module: a child module, an item, what it is imported from, or an item of a glob's module.
    fn members(&mut self, module: &Module, name: &str) -> Vec<Target> {
        let code = self.code;
        let key = (module.clone(), name.to_owned());
        let Some(scope) = code.scopes.get(module).filter(|_| self.open.insert(key.clone())) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let child = [module.as_slice(), &[name.to_owned()]].concat();
        if code.scopes.contains_key(&child) {
            found.push(Target { module: child, item: None });
        }
        if scope.items.contains(name) {
            found.push(Target { module: module.clone(), item: Some(name.to_owned()) });
        }
        for import in scope.imports.iter().filter(|import| import.name == name) {
            found.extend(self.path(module, &import.path));
        }
        if found.is_empty() {
            let globs = scope.imports.iter().filter(|import| import.name == "*");
            let targets: Vec<_> = globs.flat_map(|glob| self.path(module, &glob.path)).collect();
            let modules = targets.iter().filter(|target| target.item.is_none());
            found.extend(modules.flat_map(|target| self.members(&target.module, name)));
        }
        self.open.remove(&key);
        found
    }
}
