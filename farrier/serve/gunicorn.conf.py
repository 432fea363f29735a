from farrier.serve import settings  # noqa: N999

globals().update(settings())
