//! Visitors and mappers of a module's tensors by name: `encoder.0.1.conv.weight`.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Visits every float tensor of a module.
pub(super) trait NamedVisitor {
    fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>);
}

/// Replaces every float tensor of a module.
pub(super) trait NamedMapper {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Visits all tensors of `module`, in the order of its fields.
pub(super) fn visit_named<M: Module>(module: &M, visitor: &mut impl NamedVisitor) {
    module.visit(&mut Walk::new(visitor));
}

/// `module` with its tensors replaced by `mapper`.
pub(super) fn map_named<M: Module>(module: M, mapper: &mut impl NamedMapper) -> M {
    module.map(&mut Walk::new(mapper))
}

/// Tracks the path from the module's root to the current tensor.
struct Walk<'a, T> {
    path: Vec<String>,
    inner: &'a mut T,
}

impl<'a, T> Walk<'a, T> {
    fn new(inner: &'a mut T) -> Self {
        Self {
            path: Vec::new(),
            inner,
        }
    }

    /// The variant of an enum is not part of a name.
    fn enter(&mut self, name: &str, container_type: &str) {
        let is_variant = container_type.starts_with("Enum:");
        self.path
            .push(if is_variant { "" } else { name }.to_owned());
    }

    fn name(&self) -> String {
        let parts: Vec<&str> = self
            .path
            .iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        parts.join(".")
    }
}

impl<T: NamedVisitor> ModuleVisitor for Walk<'_, T> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.name();
        self.inner.visit(name, param);
    }
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.enter(name, container_type);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

impl<T: NamedMapper> ModuleMapper for Walk<'_, T> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.name();
        self.inner.map(name, param)
    }
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.enter(name, container_type);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}
