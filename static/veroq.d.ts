/** The queue of commands that veroq.js takes to the gateway. */

type VeroqId = string | number;

/** What travels as JSON. */
type VeroqValue = string | number | boolean | null | undefined | Date | VeroqValue[] | VeroqProperties;
interface VeroqProperties {
  [name: string]: VeroqValue;
}

type VeroqKey =
  | { /** Public key of the site. */ api_key: string }
  | { /** The same, as newer loaders call it. */ tracking_api_key: string };

type VeroqOptions = VeroqKey & {
  /** Base URL of the gateway. Default: where the script itself was loaded from. */
  endpoint?: string;
  /** `required`: nothing is stored or sent before `['consent', 'granted']`. */
  consent?: "required" | "granted";
  /** Name of the URL parameter that names the person who got the link. Default: `vero_id`. */
  link_param?: string;
  /** Domain of the cookie, for a site on several subdomains. */
  cookie_domain?: string;
  /** `false`: nothing is written to the browser's storage. */
  storage?: boolean;
  /** Accepted and never sent. */
  secret?: string;
  /** Accepted, without effect. */
  development_mode?: boolean;
};

interface VeroqExtras {
  source?: string;
  created_at?: string;
  vero_conv?: string;
  [name: string]: VeroqValue;
}

type VeroqCommand =
  | ["init", VeroqOptions]
  | ["user", VeroqProperties & { id?: VeroqId; email?: string }]
  | ["track", string]
  | ["track", string, VeroqProperties]
  | ["track", string, VeroqProperties | null, VeroqExtras]
  | ["trackPageview"]
  | ["reidentify", VeroqId]
  | ["reidentify", VeroqId, VeroqId]
  | ["tags", { id?: VeroqId; add?: string[]; remove?: string[] }]
  | ["unsubscribe", VeroqId | { id: VeroqId }]
  | ["resubscribe", VeroqId | { id: VeroqId }]
  | ["cookie_domain", string]
  | ["logout"]
  | ["reset"]
  | ["verify", string]
  | ["consent", "granted" | "denied"];

interface Vero {
  /** Takes every command out of an array. */
  processVeroArray(commands: unknown[]): void;
  listeners: {
    attach_to_kissmetrics(): void;
    attach_to_mixpanel(): void;
  };
}

/** Called once when the command was taken. The page's own fail-safe calls it with `(null, false)`. */
type VeroqCallback = (vero: Vero | null, loaded: boolean) => void;

/** A command, and after it a callback if one is wanted. */
type VeroqEntry = VeroqCommand | [...VeroqCommand, VeroqCallback];

interface VeroqQueue {
  push(...commands: VeroqEntry[]): number;
  readonly length: number;
  /** True once the script runs. */
  ready?: boolean;
}

declare var _veroq: VeroqQueue;

interface Window {
  _veroq: VeroqQueue;
  __vero?: Vero;
  /** There once the script runs; the loaders of the Ruby gem look for it. */
  Semblance?: Vero;
}
