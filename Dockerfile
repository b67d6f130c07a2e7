# CPU:  docker build -t s2vnet .
# GPU:  docker build -t s2vnet --build-arg TORCH=cu130 .   (and `docker run --gpus all`)
# Run:  docker run -e S2VNET_TOKEN=... -p 1537:1537 -v "$PWD/scans:/data:ro" -v s2vnet-state:/state s2vnet
# 3.14 would need a compiler: pyjpegls, which highdicom needs, has no wheels for it yet
ARG PYTHON=3.13
FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps -w /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt --index-url "https://download.pytorch.org/whl/$TORCH" torch \
    && pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /tmp/wheels/s2vnet-*.whl)[all]" \
    && useradd --create-home --uid 10001 s2vnet \
    && install -d -o s2vnet /data /state
USER 10001
WORKDIR /home/s2vnet
VOLUME ["/state"]
EXPOSE 1537
# a token is needed (S2VNET_TOKEN, 16 characters or more), or the server refuses to start
ENTRYPOINT ["s2vnet"]
CMD ["serve", "--model", "abdomen-ct", "--data", "/data", "--state", "/state", "--host", "0.0.0.0", "--port", "1537"]
