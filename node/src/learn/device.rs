//! Where the engine computes: on the processor, or on an NVIDIA GPU in a program that was built for one.

use std::fmt::{self, Display};
use std::str::FromStr;

use candle_core::utils::cuda_is_available;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first GPU if there is one and this program can use it, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such word.
    #[error("`{0}` is no device; auto, cpu and cuda:0 (the number of a GPU) are")]
    Unknown(String),
    /// A GPU for a program that was built without.
    #[error(
        "device {0}: this program was built without CUDA; build it with scripts/cuda, or take auto or cpu"
    )]
    NotBuilt(Device),
    /// The driver says no.
    #[error(
        "device {device}: it cannot be used ({reason}); nvidia-smi lists what there is, and the driver's version"
    )]
    Failed {
        /// Which.
        device: Device,
        /// What the driver says.
        reason: String,
    },
}

impl Device {
    /// Makes it ready. `auto` tells the log why it passes over a GPU.
    pub fn open(self) -> Result<candle_core::Device, DeviceError> {
        match self {
            Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Auto if !cuda_is_available() => Ok(candle_core::Device::Cpu),
            Self::Auto => Ok(gpu(0).unwrap_or_else(|error| {
                let error = reason(&error);
                tracing::warn!(error, "no GPU can be used; computing on the processor");
                candle_core::Device::Cpu
            })),
            Self::Cuda(_) if !cuda_is_available() => Err(DeviceError::NotBuilt(self)),
            Self::Cuda(number) => gpu(number).map_err(|error| DeviceError::Failed {
                device: self,
                reason: reason(&error),
            }),
        }
    }
}

/// What an error says, without the trace of calls that may stand below it; of the driver, its word and its sentence.
fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let driver = line.strip_prefix("DriverError(");
    let driver = driver.and_then(|inside| inside.strip_suffix(')')?.split_once(", "));
    match driver {
        None => line.to_owned(),
        // A driver that knows no sentence.
        Some((word, said)) if said.starts_with("\"<") => word.to_owned(),
        Some((word, said)) => format!("{word}: {}", said.trim_matches('"')),
    }
}

/// A GPU that computes.
fn gpu(number: usize) -> candle_core::Result<candle_core::Device> {
    // One stream for all threads: by default each thread has its own, and none waits for another's.
    let device = candle_core::Device::new_cuda_with_stream(number)?;
    // A driver that is too old for the program says so with the first product only.
    let one = Tensor::ones((1, 1), DType::F32, &device)?;
    one.matmul(&one.exp()?)?.to_vec2::<f32>()?;
    Ok(device)
}

/// Whether an operation failed because the device's memory is full.
pub fn is_full(error: &candle_core::Error) -> bool {
    let text = error.to_string().to_lowercase();
    [
        "out of memory",
        "out_of_memory",
        "alloc_failed",
        "allocation_failed",
    ]
    .iter()
    .any(|full| text.contains(full))
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let number = |of: &str| of.parse().ok();
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let cuda = text.strip_prefix("cuda:").and_then(number);
                cuda.map(Self::Cuda)
                    .ok_or_else(|| DeviceError::Unknown(text.to_owned()))
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Self, DeviceError> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_devices_and_other_words_are_told_what_is() {
        for (text, device) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for text in ["gpu", "cuda:", "cuda:-1", "cuda:a", ""] {
            let said = text.parse::<Device>().unwrap_err().to_string();
            assert!(said.contains("auto, cpu and cuda:0"), "{text}: {said}");
        }
    }

    #[test]
    fn a_gpu_is_refused_by_name_where_the_program_cannot_use_it() {
        assert!(Device::Cpu.open().unwrap().is_cpu());
        if !cuda_is_available() {
            assert!(Device::Auto.open().unwrap().is_cpu());
            let said = Device::Cuda(1).open().unwrap_err().to_string();
            assert!(
                said.starts_with("device cuda:1: this program was built without CUDA"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_driver_is_heard_in_its_own_words() {
        for (said, heard) in [
            (
                "DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")",
                "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
            ),
            (
                "DriverError(CUDA_ERROR_NO_DEVICE, \"<Failure when calling cuGetErrorString()>\")",
                "CUDA_ERROR_NO_DEVICE",
            ),
            ("shape mismatch\n  in matmul", "shape mismatch"),
        ] {
            assert_eq!(reason(&candle_core::Error::Msg(said.into())), heard);
        }
    }

    #[test]
    fn a_full_memory_is_known_by_what_the_driver_calls_it() {
        let full = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        for full in [full, "CUBLAS_STATUS_ALLOC_FAILED"] {
            assert!(is_full(&candle_core::Error::Cuda(full.into())));
        }
        assert!(!is_full(&candle_core::Error::Msg("shape mismatch".into())));
    }
}
