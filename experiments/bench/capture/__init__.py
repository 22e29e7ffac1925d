"""What capturing keys and values costs beside the forward that makes them."""
