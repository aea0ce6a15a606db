# cogserve on an NVIDIA GPU (driver 580 or later, NVIDIA's container toolkit), for a checkpoint of one's
# own. From the top of the repository:
#   docker build -f deploy/cuda.Dockerfile -t cogserve:cuda .
#   docker run --rm --gpus 1 -p 127.0.0.1:8001:8001 -v /models/cogvlm2:/model:ro cogserve:cuda \
#     serve --device cuda:0 --model /model --host 0.0.0.0 --insecure
# and with --quantization int4 on 16 GB.

FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build
WORKDIR /src
COPY scripts/install-deps.sh scripts/install-deps.sh
RUN scripts/install-deps.sh
COPY . .
# Fewer architectures build faster: --build-arg COGSERVE_CUDA_ARCHITECTURES=90
ARG COGSERVE_CUDA_ARCHITECTURES=
RUN scripts/build.sh cuda cogserve && cmake --install build-cuda --prefix /opt/cogserve --strip

FROM nvidia/cuda:13.0.2-base-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends libcublas-13-0 \
      libgrpc++1.51t64 libprotobuf32t64 libabsl20220623t64 libhwy1t64 libopencv-core406t64 \
      libopencv-imgproc406t64 libspdlog1.12 libyaml-cpp0.8 libpcre2-8-0 libjpeg-turbo8 \
      libpng16-16t64 libwebp7 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/cogserve /opt/cogserve
ENV PATH=/opt/cogserve/bin:$PATH
USER 65534:65534
EXPOSE 8001
STOPSIGNAL SIGTERM
ENTRYPOINT ["cogserve"]
CMD ["serve", "--device", "cuda:0", "--host", "0.0.0.0", "--insecure"]
