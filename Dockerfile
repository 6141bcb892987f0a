# coca on a CPU:
#   docker build -t coca .
#   docker run --rm -v "$PWD:/data" -v coca:/cache coca caption videos/ -o captions.jsonl
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/coca \
    && /opt/coca/bin/pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
    && /opt/coca/bin/pip install --no-cache-dir -c constraints.txt ".[openvino]"

FROM python:3.13-slim-bookworm
COPY --from=build /opt/coca /opt/coca
ENV PATH=/opt/coca/bin:$PATH COCA_HOME=/cache
RUN useradd --create-home --uid 1000 coca && mkdir /cache /data && chmod 1777 /cache /data
USER 1000
VOLUME /cache
WORKDIR /data
ENTRYPOINT ["coca"]
CMD ["--help"]
