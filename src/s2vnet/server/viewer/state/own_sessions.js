// Sessions that this browser has opened, and the names of files that it has sent. Servers of several users list neither.

const SESSIONS = "s2vnet-sessions";
const FILES = "s2vnet-files";
const MOST = 200;

/** Names of sessions, the newest first. */
export const ownSessions = () => read(SESSIONS);

export function rememberSession(name) {
  write(SESSIONS, [name, ...ownSessions().filter((other) => other !== name)]);
}

/** Remember the name of an uploaded file, which the server does not keep. */
export function rememberFile(scan, name) {
  write(FILES, [[scan, name], ...read(FILES).filter(([other]) => other !== scan)]);
}

/** Name of a scan as its user knows it. */
export function displayName({ id, name }) {
  return read(FILES).find(([scan]) => scan === id)?.[1] ?? name;
}

function read(key) {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function write(key, items) {
  try {
    localStorage.setItem(key, JSON.stringify(items.slice(0, MOST)));
  } catch {
    // no space, or the browser keeps nothing: the sessions of this page can still be opened by their addresses
  }
}
