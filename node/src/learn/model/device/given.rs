//! Operations whose value is known when they enter the graph: how it came about is not recorded, and the gradient is
//! computed when it is due, from the inputs alone.

use std::sync::Mutex;

use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor, Var,
};

/// The gradients by the inputs, of these inputs and a gradient by the output; none where none is wanted.
type Back = dyn Fn(&[&Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync;

struct Given {
    inputs: usize,
    /// Taken by the forward pass, so that it is not held twice.
    value: Mutex<Option<Tensor>>,
    back: Box<Back>,
}

/// `value` as what an operation makes of one to three inputs; `back` gives its gradients.
pub(super) fn given<const N: usize>(
    inputs: [&Tensor; N],
    value: Tensor,
    back: impl Fn(&[&Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !inputs.iter().any(|input| input.track_op()) {
        return Ok(value.detach());
    }
    let op = Given {
        inputs: N,
        value: Mutex::new(Some(value)),
        back: Box::new(back),
    };
    // One kind of operation for all: who has fewer inputs gets the first again, where no gradient goes.
    let spare = inputs[0].detach();
    let input = |at: usize| inputs.get(at).copied().unwrap_or(&spare);
    input(0).apply_op3(input(1), input(2), op)
}

/// What `compute` makes of the inputs; for the gradient it is computed again, and differentiated then.
pub(super) fn again<const N: usize>(
    inputs: [&Tensor; N],
    compute: impl Fn(&[&Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let wanted = inputs.map(Tensor::track_op);
    let still = inputs.map(Tensor::detach);
    let value = compute(&still.each_ref())?;
    given(inputs, value, move |inputs, dy| {
        let free = inputs.iter().zip(wanted).map(|(input, wanted)| {
            let still = input.detach();
            if wanted {
                Ok(Var::from_tensor(&still)?.into_inner())
            } else {
                Ok(still)
            }
        });
        let free: Vec<Tensor> = free.collect::<Result<_>>()?;
        let y = compute(&free.iter().collect::<Vec<_>>())?;
        let mut gradients = (y * dy)?.backward()?;
        let mut gradient = |(x, wanted): (&Tensor, bool)| {
            let found = gradients.remove(x).filter(|_| wanted);
            found.map(|found| found.detach())
        };
        Ok(free.iter().zip(wanted).map(&mut gradient).collect())
    })
}

impl Given {
    /// The value's storage, by what copies it on its kind of device.
    fn value<T>(&self, copy: impl Fn(&Storage, &Layout) -> Result<T>) -> Result<(T, Shape)> {
        let value = self.value.lock().ok().and_then(|mut value| value.take());
        let value = value.ok_or_else(|| Error::Msg("a value was asked for twice".into()))?;
        let whole = value.is_contiguous() && value.layout().start_offset() == 0;
        let value = if whole {
            value
        } else {
            value.force_contiguous()?
        };
        let (storage, layout) = value.storage_and_layout();
        Ok((copy(&storage, layout)?, value.shape().clone()))
    }

    fn on_processor(&self) -> Result<(CpuStorage, Shape)> {
        self.value(|storage, layout| match storage {
            Storage::Cpu(storage) => storage.try_clone(layout),
            _ => Err(elsewhere()),
        })
    }

    fn on_cuda(&self) -> Result<(CudaStorage, Shape)> {
        self.value(|storage, layout| match storage {
            Storage::Cuda(storage) => storage.try_clone(layout),
            _ => Err(elsewhere()),
        })
    }
}

fn elsewhere() -> Error {
    Error::Msg("a value is on another device than its inputs".into())
}

impl CustomOp3 for Given {
    fn name(&self) -> &'static str {
        "given"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_processor()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = (self.back)(&[x, y, z][..self.inputs], dy)?.into_iter();
        let mut next = || gradients.next().flatten();
        Ok((next(), next(), next()))
    }
}
