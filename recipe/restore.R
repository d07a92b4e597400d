# Installs the packages of wanted.tsv into ../library, in the directory that attune has laid out: tarballs in src/contrib, those that
# have to be fetched in fetch.tsv. What no repository has is left in the file "missing".
options(warn = 1, timeout = max(600, getOption("timeout")))
rows <- function(file, names) {
  if (!file.size(file)) return(NULL)
  read.delim(file, header = FALSE, col.names = names, colClasses = "character", quote = "", comment.char = "")
}
wanted <- rows("wanted.tsv", c("package", "version"))
fetch <- rows("fetch.tsv", c("package", "version", "repository", "dir"))

# The answer is "ok", "absent" or "failed".
download <- function(url, to) {
  if (startsWith(url, "file:") && !file.exists(sub("^file:(//)?", "", URLdecode(url)))) return("absent")
  said <- character()
  status <- tryCatch(withCallingHandlers(
    download.file(url, to, mode = "wb", quiet = TRUE),
    warning = function(w) { said <<- c(said, conditionMessage(w)); invokeRestart("muffleWarning") }),
    error = function(e) { said <<- c(said, conditionMessage(e)); 1L })
  if (identical(as.integer(status), 0L)) return("ok")
  if (any(grepl("status (code )?was '?(404|410)\\b", said))) return("absent")
  message(paste(said, collapse = "\n"))
  "failed"
}

obtain <- function(row) {
  file <- paste0(row$package, "_", row$version, ".tar.gz")
  answer <- "absent"
  for (place in c("", paste0("Archive/", row$package, "/"))) {
    part <- file.path("src/contrib", paste0(file, ".part"))
    answer <- download(paste0(row$repository, "/src/contrib/", place, file), part)
    if (answer == "absent") next
    if (answer == "ok") {
      if (!startsWith(row$repository, "file:")) {
        kept <- file.path("downloads", row$dir)
        dir.create(kept, showWarnings = FALSE, recursive = TRUE)
        unfinished <- tempfile(file, kept)
        file.copy(part, unfinished)
        file.rename(unfinished, file.path(kept, file))
      }
      file.rename(part, file.path("src/contrib", file))
    }
    break
  }
  answer
}

missing <- character()
failed <- FALSE
for (name in unique(fetch$package)) {
  answers <- character()
  for (i in which(fetch$package == name)) {
    answers <- c(answers, obtain(fetch[i, ]))
    if ("ok" %in% answers) break
  }
  if ("ok" %in% answers) next
  if ("failed" %in% answers) failed <- TRUE
  else missing <- c(missing, paste0(name, "_", fetch$version[fetch$package == name][1]))
}
if (failed) quit(status = 1)
if (length(missing)) {
  writeLines(missing, "missing")
  quit(status = 1)
}

tools::write_PACKAGES("src/contrib", type = "source")
install.packages(wanted$package, lib = "../library", repos = paste0("file://", getwd()), type = "source", dependencies = FALSE,
  Ncpus = as.integer(readLines("processors", warn = FALSE)),
  INSTALL_opts = c("--no-docs", "--no-demo", "--no-multiarch", "--byte-compile"))
for (i in seq_len(nrow(wanted))) {
  file <- file.path("../library", wanted$package[i], "DESCRIPTION")
  found <- if (file.exists(file)) read.dcf(file, "Version")[1] else "nothing"
  if (found != wanted$version[i]) {
    message("package ", wanted$package[i], ": ", found, " was installed instead of ", wanted$version[i])
    quit(status = 1)
  }
}
