# For CUDA users. NOT BUILT BY US: neither Docker nor a GPU was at hand when this was written.
#   docker build --tag diffusion-apo .
#   docker run --gpus all --ipc host --volume "$PWD/outputs:/runs/outputs" diffusion-apo apo-train stage=offline trainer=gpu
# torch's wheels from PyPI bring CUDA with them; the host needs NVIDIA's driver and container toolkit.
FROM python:3.11-slim

WORKDIR /source
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .

# outputs/ and caches go below the working directory
WORKDIR /runs
CMD ["apo-train", "--help"]
