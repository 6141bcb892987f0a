"""Records for pages."""

from typing import Any

PICTURE = (
    "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHdpZHRoPSIxNiIgaGVpZ2h0PSI5Ij48"
    "cmVjdCB3aWR0aD0iMTYiIGhlaWdodD0iOSIgZmlsbD0idGVhbCIvPjwvc3ZnPg=="
)


def make_records(count: int) -> list[dict[str, Any]]:
    """Records of 1 segment in even files and 3 in odd ones; each tenth file failed."""
    records: list[dict[str, Any]] = []
    number = 0
    while len(records) < count:
        video = f"videos/clip {number}.mp4"
        if number % 10 == 9:
            records.append({"video": video, "status": "error", "error": "not a video: invalid data", "thumbnails": []})
        else:
            segments = 3 if number % 2 else 1
            records += [
                {
                    "video": video,
                    "start": 4.0 * part,
                    "end": 4.0 * (part + 1),
                    "segments": segments,
                    "caption": f"a {('red', 'green', 'blue')[len(records) % 3]} square number {number}",
                    "logprob": -0.1 - (number * 7 % 10) / 10,
                    "similarity": 0.1 + (number * 3 % 10) / 20,
                    "frames": [4.0 * part + 2],
                    "model": "shapes",
                    "status": "ok",
                    "thumbnails": [{"time": 4.0 * part + 2, "src": PICTURE}],
                }
                for part in range(segments)
            ]
        number += 1
    return [{"id": index, **record} for index, record in enumerate(records[:count])]
