"""`mia-serve`: a trained model, or a service that trains models, behind HTTP, so that an audit can be rehearsed."""
