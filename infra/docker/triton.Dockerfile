# Triton with what the generated wrappers of torch models import.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.06-py3
FROM ${TRITON_IMAGE}

RUN pip install --no-cache-dir 'torch==2.13.0' 'safetensors'
