# cogserve on the CPU, with the demo model inside; deploy/cuda.Dockerfile is for GPUs.
#   docker build -t cogserve .
#   docker run --rm -p 127.0.0.1:8001:8001 cogserve

FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY scripts/install-deps.sh scripts/install-deps.sh
RUN scripts/install-deps.sh
COPY . .
RUN scripts/build.sh release cogserve && cmake --install build --prefix /opt/cogserve --strip

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
      libgrpc++1.51 libprotobuf32 libabsl20220623 libhwy1 libopencv-core406 libopencv-imgproc406 \
      libspdlog1.10 libyaml-cpp0.7 libpcre2-8-0 libjpeg62-turbo libpng16-16 libwebp7 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/cogserve /opt/cogserve
ENV PATH=/opt/cogserve/bin:$PATH
# Nobody: needs no home, writes no file.
USER 65534:65534
EXPOSE 8001
STOPSIGNAL SIGTERM
ENTRYPOINT ["cogserve"]
# Inside a container the port is published on purpose; put TLS on it before it leaves the host.
CMD ["serve", "--host", "0.0.0.0", "--insecure"]
